"""What the engine computes must not depend on how the work is spread: each function measures one such pair.

A measure takes a model folder and a scratch folder and returns the largest relative difference of losses and
gradient norms; 0 is bitwise, infinity says that even the counts differ. Tolerances are in equality_table.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine_cases import Document, build_spec, draw_documents, lay_out, total_weight
from families import FAMILIES, WINDOW
from tunewright.engines.torch.engine import TorchEngine, build_engine
from tunewright.models.arch import load_arch
from tunewright.types import Batch, EngineState, StepStats

LENGTHS = [WINDOW - 1, WINDOW, WINDOW + 1, 1, 2 * WINDOW, 41]
"""Documents on both sides of the window, one of more than two windows, one of a single token."""

DOCUMENTS = draw_documents(LENGTHS)
PACKED = lay_out([DOCUMENTS[:4], DOCUMENTS[4:]], width=76)
ONE_BATCH = lay_out([[document] for document in DOCUMENTS])
ALONE = [lay_out([[document]]) for document in DOCUMENTS]
PAIRS = [lay_out([[document] for document in DOCUMENTS[i : i + 2]]) for i in range(0, len(DOCUMENTS), 2)]
HALVES = [lay_out([DOCUMENTS[:4]]), lay_out([DOCUMENTS[4:]])]
STEPS = 3

Measure = Callable[[Path, Path], float]


def relative_difference(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Largest |a - b| / |b|; 0 when all are equal."""
    pairs = zip(ours, reference, strict=True)
    return max(0.0 if a == b else abs(a - b) / max(abs(b), 1e-30) for a, b in pairs)


def compare_steps(ours: Sequence[StepStats], reference: Sequence[StepStats]) -> float:
    """relative_difference of losses and gradient norms of steps; infinity when the labels differ."""
    counts = [[(stats.sums.weight, stats.sums.tokens) for stats in run] for run in (ours, reference)]
    if counts[0] != counts[1]:
        return float("inf")
    figures = [
        [figure for stats in run for figure in (stats.sums.loss, stats.gradient_norm)]
        for run in (ours, reference)
    ]
    return relative_difference(*figures)


def train(
    engine: TorchEngine, micro_batches: Sequence[Batch], documents: list[Document], steps: int = STEPS
) -> list[StepStats]:
    """Steps on the same micro-batches; a high rate, so that a wrong gradient shows in the next loss."""
    stats = []
    for _ in range(steps):
        engine.forward_backward(micro_batches, denominator=total_weight(documents))
        stats.append(engine.optim_step(lr=1e-2, skip_above=None).read())
    return stats


@lru_cache(maxsize=len(FAMILIES))
def _alone(folder: Path) -> list[StepStats]:
    """The plainest layout, which others are compared with: each document a micro-batch of its own."""
    return train(build_engine(build_spec(folder)), ALONE, DOCUMENTS)


def _against_alone(folder: Path, micro_batches: Sequence[Batch], **changes: Any) -> float:
    ours = train(build_engine(build_spec(folder, **changes)), micro_batches, DOCUMENTS)
    return compare_steps(ours, _alone(folder))


def accumulated(folder: Path, scratch: Path) -> float:
    """Three micro-batches of two, and six of one, against one batch of six."""
    one = train(build_engine(build_spec(folder)), [ONE_BATCH], DOCUMENTS)
    three = train(build_engine(build_spec(folder)), PAIRS, DOCUMENTS)
    return max(compare_steps(three, one), compare_steps(_alone(folder), one))


def packed(folder: Path, scratch: Path) -> float:
    """Documents end to end in two rows against each alone."""
    return _against_alone(folder, [PACKED])


def padded(folder: Path, scratch: Path) -> float:
    """One document a row, padded to the longest and further, against each alone."""
    return _against_alone(folder, [lay_out([[document] for document in DOCUMENTS], width=60)])


def dense_mask(folder: Path, scratch: Path) -> float:
    """Packed rows under the model's own eager attention and a dense mask against documents alone."""
    return _against_alone(folder, [PACKED], attention="eager")


def resumed(folder: Path, scratch: Path, **adapter: Any) -> float:
    """A snapshot restored into a new engine, then trained on, against the engine that never stopped."""
    spec = build_spec(folder, adapter=adapter or {"dropout": 0.3})
    whole, second = build_engine(spec), build_engine(spec)
    train(whole, HALVES, DOCUMENTS)
    second.restore(whole.snapshot())
    expected = train(whole, HALVES, DOCUMENTS)
    difference = compare_steps(train(second, HALVES, DOCUMENTS), expected)
    return difference if same_state(second.snapshot(), whole.snapshot()) else max(difference, 1.0)


def same_state(first: EngineState, second: EngineState) -> bool:
    """Whether weights, moments, random state and counters are bitwise equal."""
    arrays = [{name: bytes(array.data) for name, array in state.arrays.items()} for state in (first, second)]
    return first.values == second.values and arrays[0] == arrays[1]


def activation_checkpointing(folder: Path, scratch: Path) -> float:
    """Activations recomputed against kept, with dropout that must be drawn the same again."""
    kept, some, every = (
        train(
            build_engine(build_spec(folder, checkpointed_layers=count, adapter={"dropout": 0.2})),
            HALVES,
            DOCUMENTS,
        )
        for count in (0, 1, load_arch(folder).layers)
    )
    return max(compare_steps(some, kept), compare_steps(every, kept))


def bf16_compute(folder: Path, scratch: Path) -> float:
    """bf16 computation on fp32 weights against fp32."""
    return _bf16(folder, dtype="fp32")


def bf16_weights(folder: Path, scratch: Path) -> float:
    """bf16 computation on frozen weights stored in bf16 against fp32."""
    return _bf16(folder, dtype="bf16")


def _bf16(folder: Path, dtype: str) -> float:
    rounded = build_engine(build_spec(folder, dtype=dtype, precision="bf16"))
    return compare_steps(train(rounded, [PACKED], DOCUMENTS, steps=1), _alone(folder)[:1])


def lora_start(folder: Path, scratch: Path) -> float:
    """A fresh adapter against no adapter, the base frozen in both: a head that trains has its loss added up
    in another order."""
    adapted = build_engine(build_spec(folder))
    base = build_engine(build_spec(folder, adapter={"kind": "none"}))
    base._model.requires_grad_(False)
    return relative_difference([adapted.evaluate(PACKED).loss], [base.evaluate(PACKED).loss])


FAST_FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma")


def _build_fast(folder: Path, **changes: Any) -> TorchEngine:
    """An engine on the fast layers. Where they do not know the family it must say so, and is as it was."""
    engine = build_engine(build_spec(folder, kernels="fast", **changes))
    assert engine.facts.kernels == ("fast" if folder.name in FAST_FAMILIES else "plain"), engine.facts.path
    return engine


def fast_layers(folder: Path, scratch: Path) -> float:
    """Packed rows through the fast layers against each document alone on the plain path."""
    return compare_steps(train(_build_fast(folder), [PACKED], DOCUMENTS), _alone(folder))


def fast_packed(folder: Path, scratch: Path) -> float:
    """The fast layers against themselves: documents end to end against one a row."""
    packed, padded = (train(_build_fast(folder), [layout], DOCUMENTS) for layout in (PACKED, ONE_BATCH))
    return compare_steps(packed, padded)


def fast_resumed(folder: Path, scratch: Path) -> float:
    """As resumed(), on the fast layers in bf16."""
    half: dict[str, Any] = {"dtype": "bf16", "precision": "bf16"}
    whole, second = _build_fast(folder, **half), _build_fast(folder, **half)
    train(whole, HALVES, DOCUMENTS)
    second.restore(whole.snapshot())
    expected = train(whole, HALVES, DOCUMENTS)
    difference = compare_steps(train(second, HALVES, DOCUMENTS), expected)
    return difference if same_state(second.snapshot(), whole.snapshot()) else max(difference, 1.0)


def fast_bf16(folder: Path, scratch: Path) -> float:
    """The fast layers in bf16 against fp32."""
    rounded = _build_fast(folder, dtype="bf16", precision="bf16")
    return compare_steps(train(rounded, [PACKED], DOCUMENTS, steps=1), _alone(folder)[:1])
