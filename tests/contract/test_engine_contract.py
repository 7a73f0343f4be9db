"""What every engine must do, whatever it computes with. A new engine adds one line to BUILDERS.

The suite knows only engines/protocol.py. What an engine computes is compared with itself here, and with
references in tests/numerics.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import make_family
from tunewright.data.collate import build_empty_batch
from tunewright.engines.protocol import Engine
from tunewright.engines.registry import build_engine
from tunewright.errors import CheckpointError
from tunewright.train.rehearse import rehearse
from tunewright.types import EngineState

Build = Callable[..., Engine]


DEVICE = os.environ.get("CONTRACT_DEVICE", "cpu")
"""Where the engines compute; `make mac-check` sets it to mps and metal."""


def _build_torch(folder: Path, **changes: Any) -> Engine:
    return build_engine("torch", build_spec(folder, **{"device": DEVICE, **changes}))


def _build_torch_fast(folder: Path, **changes: Any) -> Engine:
    return _build_torch(folder, **{"kernels": "fast", **changes})


def _build_mlx(folder: Path, **changes: Any) -> Engine:
    return build_engine("mlx", build_spec(folder, **{"device": DEVICE, **changes}))


def _build_numpy(folder: Path, **changes: Any) -> Engine:
    import numpy_engine

    return numpy_engine.build_engine(build_spec(folder, **changes))


BUILDERS: dict[str, Callable[..., Engine]] = {
    "torch": _build_torch,
    "torch, fast layers": _build_torch_fast,
    "mlx": _build_mlx,
}
if importlib.util.find_spec("numpy_engine"):
    BUILDERS["numpy"] = _build_numpy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("llama", tmp_path_factory.mktemp("contract") / "llama")


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest, folder: Path) -> Build:
    """build(**changes of the spec) → a fresh engine of this kind."""
    return lambda **changes: BUILDERS[request.param](folder, **changes)


DOCUMENTS = draw_documents([6, 14, 9], seed=2)
WEIGHT = total_weight(DOCUMENTS)
PACKED = lay_out([DOCUMENTS], width=32)


def _step(engine: Engine, lr: float = 1e-2, skip_above: float | None = None):
    engine.forward_backward([PACKED], denominator=WEIGHT)
    return engine.optim_step(lr=lr, skip_above=skip_above).read()


def _arrays(engine: Engine) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {n: (a.dtype, tuple(a.shape), bytes(a.data)) for n, a in engine.snapshot().arrays.items()}


def test_facts_describe_the_engine(build: Build):
    facts = build().facts
    assert facts.engine
    assert facts.device
    assert facts.parameters > 0
    assert facts.trainable_parameters > 0
    assert facts.versions


def test_training_lowers_the_loss(build: Build):
    engine = build()
    losses = [_step(engine).sums.loss for _ in range(15)]
    assert losses[-1] < losses[0]


def test_sums_count_labels_and_weights(build: Build):
    sums = _step(build()).sums
    assert sums.weight == pytest.approx(WEIGHT)
    assert sums.tokens == sum(int((weights > 0).sum()) for _, weights in DOCUMENTS)
    assert 0 <= sums.correct <= sums.tokens


def test_a_label_counts_by_its_weight(build: Build):
    whole, half = build(), build()
    a = _step(whole)
    halved = [(tokens, weights / 2) for tokens, weights in DOCUMENTS]
    half.forward_backward([lay_out([halved], width=32)], denominator=WEIGHT)
    b = half.optim_step(lr=1e-2, skip_above=None).read()
    assert b.sums.loss == pytest.approx(a.sums.loss / 2, rel=1e-5)
    assert b.gradient_norm == pytest.approx(a.gradient_norm / 2, rel=1e-5)
    assert b.sums.weight == pytest.approx(WEIGHT / 2)


def test_evaluation_equals_training_loss_and_changes_nothing(build: Build):
    engine = build()
    before = _arrays(engine)
    sums = engine.evaluate(PACKED)
    assert _arrays(engine) == before
    assert _step(engine).sums.loss == pytest.approx(sums.loss, rel=1e-6)


def test_step_sums_start_anew(build: Build):
    engine = build()
    assert _step(engine).sums.weight == _step(engine).sums.weight


def test_packing_and_padding_change_nothing(build: Build):
    packed, padded = build(), build()
    alone = [lay_out([[document]], width=20) for document in DOCUMENTS]
    for _ in range(3):
        a = _step(packed)
        padded.forward_backward(alone, denominator=WEIGHT)
        b = padded.optim_step(lr=1e-2, skip_above=None).read()
        assert a.sums.loss == pytest.approx(b.sums.loss, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-5)


def test_gradients_of_several_calls_add_up(build: Build):
    one, many = build(), build()
    a = _step(one)
    for document in DOCUMENTS:
        many.forward_backward([lay_out([[document]])], denominator=WEIGHT)
    b = many.optim_step(lr=1e-2, skip_above=None).read()
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-5)
    assert a.sums.loss == pytest.approx(b.sums.loss, rel=1e-5)
    assert a.sums.weight == pytest.approx(b.sums.weight)


def test_an_empty_micro_batch_adds_nothing(build: Build):
    plain, padded = build(), build()
    a = _step(plain)
    padded.forward_backward([PACKED, build_empty_batch(pad_id=0)], denominator=WEIGHT)
    b = padded.optim_step(lr=1e-2, skip_above=None).read()
    assert (a.sums, a.gradient_norm, b.skipped) == (b.sums, b.gradient_norm, False)
    assert _arrays(plain) == _arrays(padded)


def test_denominator_scales_gradients(build: Build):
    norms = []
    for factor in (1, 4):
        engine = build()
        engine.forward_backward([PACKED], denominator=factor * WEIGHT)
        norms.append(engine.optim_step(lr=1e-2, skip_above=None).read().gradient_norm)
    assert norms[0] == pytest.approx(4 * norms[1], rel=1e-5)


def test_discarded_gradients_are_gone(build: Build):
    kept, cleaned = build(), build()
    cleaned.forward_backward([lay_out([draw_documents([12], seed=9)])], denominator=3.0)
    cleaned.discard_gradients()
    assert _step(kept) == _step(cleaned)
    assert _arrays(kept) == _arrays(cleaned)


def test_all_state_is_there_before_the_first_step(build: Build):
    """The memory of optimizer moments is taken, so that a rehearsal tells what a later step needs."""
    engine = build()
    before = {name: array.shape for name, array in engine.snapshot().arrays.items()}
    assert any(name.startswith("first/") for name in before)
    _step(engine)
    assert {name: array.shape for name, array in engine.snapshot().arrays.items()} == before


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_rehearsal_leaves_no_trace(steps_before: int, build: Build):
    """Dropout too: the random state is where it was. Moments and step count of a run that goes on stay."""
    plain, rehearsed = build(adapter={"dropout": 0.2}), build(adapter={"dropout": 0.2})
    assert [_step(plain) for _ in range(steps_before)] == [_step(rehearsed) for _ in range(steps_before)]
    before = rehearsed.snapshot()
    rehearse(rehearsed, [lay_out([draw_documents([30, 12], seed=9)])] * 2)
    assert rehearsed.snapshot() == before
    assert [_step(plain) for _ in range(3)] == [_step(rehearsed) for _ in range(3)]
    assert _arrays(plain) == _arrays(rehearsed)


@pytest.mark.parametrize("poisoned", [False, True])
def test_skipped_step_leaves_every_bit(poisoned: bool, build: Build):
    engine = build()
    _step(engine)
    before = _arrays(engine)
    engine.forward_backward([PACKED], denominator=1e-44 if poisoned else WEIGHT)
    stats = engine.optim_step(lr=1e-2, skip_above=None if poisoned else 1e-9).read()
    assert stats.skipped
    assert math.isfinite(stats.gradient_norm) is not poisoned
    assert _arrays(engine) == before


def test_norm_at_most_the_threshold_is_not_skipped(build: Build):
    assert not _step(build(), skip_above=1e9).skipped


def test_clipping_bounds_the_update_and_not_the_norm(build: Build):
    wide, narrow = build(max_grad_norm=0.0), build(max_grad_norm=1e-3)
    assert _step(wide).gradient_norm == pytest.approx(_step(narrow).gradient_norm, rel=1e-6)


def test_a_step_may_be_read_late_and_twice(build: Build):
    now, late = build(), build()
    expected = [_step(now) for _ in range(2)]
    pending = []
    for _ in range(2):
        late.forward_backward([PACKED], denominator=WEIGHT)
        pending.append(late.optim_step(lr=1e-2, skip_above=None))
    assert [one.read() for one in pending] == expected
    assert pending[0].read() == expected[0]


def test_restored_engine_goes_on_bitwise(build: Build):
    whole = build()
    for _ in range(3):
        _step(whole)
    state = whole.snapshot()
    expected = [_step(whole) for _ in range(3)]
    resumed = build()
    _step(resumed)
    resumed.restore(state)
    assert [_step(resumed) for _ in range(3)] == expected
    assert _arrays(resumed) == _arrays(whole)


def test_snapshot_is_a_copy_and_plain(build: Build):
    engine = build()
    state = engine.snapshot()
    frozen = {name: bytes(array.data) for name, array in state.arrays.items()}
    _step(engine)
    assert {name: bytes(array.data) for name, array in state.arrays.items()} == frozen
    assert all(
        isinstance(value, (int, float, str, bool, list, dict, type(None))) for value in state.values.values()
    )


def test_state_of_another_setup_is_refused(build: Build):
    engine = build()
    state = engine.snapshot()
    name = sorted(state.arrays)[0]
    fewer = {n: a for n, a in state.arrays.items() if n != name}
    with pytest.raises(CheckpointError, match=name.split("/")[-1]):
        engine.restore(EngineState(fewer, state.values))


def test_reduce_sum_on_one_rank(build: Build):
    assert build().reduce_sum([1.5, 2.0]) == (1.5, 2.0)


def test_export_writes_files_and_a_certificate(build: Build, tmp_path: Path):
    engine = build()
    _step(engine)
    certificate = engine.export(tmp_path, merge=False)
    assert certificate
    assert any(tmp_path.iterdir())


def test_memory_is_a_positive_number_of_bytes(build: Build):
    assert build().memory_used_bytes() > 0


def test_batches_are_not_changed(build: Build):
    before = (PACKED.tokens_BT.copy(), PACKED.weights_BT.copy())
    _step(build())
    np.testing.assert_array_equal(PACKED.tokens_BT, before[0])
    np.testing.assert_array_equal(PACKED.weights_BT, before[1])
