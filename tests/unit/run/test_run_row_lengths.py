"""The widest forward pass of a run, against the micro-batches that its steps really hold."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from tunewright.config.schema import AdapterConfig, RunConfig
from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import MemoryRows
from tunewright.data.prepared import Extent, PreparedData
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.models.footprint import count_trained
from tunewright.models.known import known_arch
from tunewright.run.memory import need_memory, split_need
from tunewright.run.row_lengths import with_lengths
from tunewright.run.split import memory_facts
from tunewright.types import Example, SourceRef

ARCH = known_arch("Qwen/Qwen2.5-7B")
LENGTHS = (40, 50, 61, 70, 129, 150, 30, 20)


def _data(weight: float = 1.0, *, extent: bool = True) -> PreparedData:
    rows = [
        [Example(np.ones(length, np.int32), np.ones(length, np.float32), SourceRef("rows", 1))]
        for length in LENGTHS
    ]
    found = Extent(max(LENGTHS), 1) if extent else None
    return PreparedData(((MemoryRows(rows), weight),), (), report=None, extent=found)  # type: ignore[arg-type]


def _config(*, packing: bool = True, **train) -> RunConfig:
    values = {"batch_size": 3, "micro_batch_size": 2, **train}
    data = {"train": "rows.json", "seq_len": 512, "packing": packing}
    return RunConfig.model_validate({"model": "m", "data": data, "train": values})


def _facts(config: RunConfig, data: PreparedData):
    facts = memory_facts(config, ARCH, "cuda", ("bf16", "bf16"), "none")
    assert facts.trained == count_trained(ARCH, AdapterConfig())
    return with_lengths(facts, config, data)


def _widest(config: RunConfig, data: PreparedData, rows: int, steps: int = 200) -> int:
    """Tokens of the widest micro-batch of the first steps."""
    shape = BatchShape(rows, config.data.seq_len, config.data.packing, 0)
    rule = StepRule(config.train.batch_size, config.train.tokens_per_batch, shape)
    taken = islice(StepStream(data.train_sources, rule, seed=0).steps(), steps)
    return max(batch.tokens_BT.size for step in taken for batch in step.micro_batches)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("weight", [1.0, 2.0, 0.7, 1.6])
@pytest.mark.parametrize("train", [{}, {"batch_size": 1}, {"tokens_per_batch": 200}])
def test_no_micro_batch_is_wider_than_planned_and_the_plan_is_close(packing, weight, train):
    config, data = _config(packing=packing, **train), _data(weight)
    facts = _facts(config, data)
    widest = _widest(config, data, rows=2)
    planned = split_need(facts, 2, 0).peak
    assert planned >= need_memory(facts, widest, 0, micro_batches=1).peak
    # Three of eight rows are drawn: within 200 steps the longest meet, or nearly.
    assert planned <= need_memory(facts, 2 * widest + 64, 0).peak < split_need(_full(config), 2, 0).peak


def test_the_longest_rows_of_a_packed_step_are_summed_and_padded():
    assert _facts(_config(), _data()).step_tokens == 384  # 150 + 129 + 70, in widths of 64
    assert _facts(_config(), _data(2.0)).step_tokens == 448  # 150 + 150 + 129
    assert _facts(_config(tokens_per_batch=200), _data()).step_tokens == 256


def test_a_padded_row_is_as_wide_as_the_longest_example():
    facts = _facts(_config(packing=False), _data())
    assert facts.row_tokens == 192
    assert split_need(facts, 2, 0) == need_memory(facts, 2 * 192, 0, micro_batches=2)
    assert split_need(facts, 3, 0) == need_memory(facts, 3 * 192, 0, micro_batches=1)


def test_rows_that_nobody_has_looked_at_are_full():
    data = _data(extent=False)
    assert _facts(_config(), data) == _full(_config())


@pytest.mark.parametrize(
    ("kind", "dtypes", "model", "expected"),
    [
        ("cpu", ("bf16", "bf16"), {}, 150),
        ("cpu", ("fp32", "fp32"), {}, 0),
        ("cpu", ("fp32", "fp32"), {"kernels": "fast"}, 150),
        ("cpu", ("fp32", "bf16"), {"kernels": "fast"}, 0),
        ("cpu", ("bf16", "bf16"), {"kernels": "plain"}, 0),
        ("cpu", ("bf16", "bf16"), {"attention": "eager"}, 0),
        ("cuda", ("bf16", "bf16"), {}, 150),
        ("cuda", ("bf16", "bf16"), {"kernels": "plain"}, 0),
        ("cuda", ("fp32", "fp32"), {"kernels": "fast"}, 0),
        ("mps", ("bf16", "bf16"), {}, 0),
    ],
)
def test_fast_layers_are_expected_with_the_longest_document(kind, dtypes, model, expected):
    data = {"train": "rows.json", "seq_len": 512}
    config = RunConfig.model_validate({"model": {"name": "m", **model}, "data": data})
    facts = memory_facts(config, ARCH, kind, dtypes, "none")
    assert facts.fast_document == (512 if expected else 0)
    assert with_lengths(facts, config, _data()).fast_document == expected


def _full(config: RunConfig):
    return memory_facts(config, ARCH, "cuda", ("bf16", "bf16"), "none")
