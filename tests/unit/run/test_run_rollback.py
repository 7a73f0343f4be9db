"""Three bad steps in a row: back to the last checkpoint, on with other rows, and a named end after that."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine_cases import build_spec, draw_documents
from numpy_engine import NumpyEngine, initial_values
from tunewright.checkpoint.background import BackgroundWriter
from tunewright.checkpoint.store import CheckpointStore
from tunewright.config.schema import CheckpointConfig, EvaluateConfig, TrainConfig
from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import MemoryRows
from tunewright.data.prefetch import prefetched
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.errors import EngineOutOfMemory
from tunewright.run.rollback import Rollback
from tunewright.run.saving import Saving
from tunewright.train.cadence import build_cadence
from tunewright.train.guard import Diverged, Guard
from tunewright.train.parts import Loop
from tunewright.train.progress import Progress, RunningStep
from tunewright.train.schedule import build_schedule
from tunewright.train.stop import StopSignal
from tunewright.train.watchdog import Watchdog
from tunewright.types import Example, SourceRef, StepBatch, StepStats

VOCABULARY, STEPS, BATCH = 24, 14, 4


@dataclass
class Run:
    """A real loop, store and writer; marks that save and count, nothing else."""

    engine: NumpyEngine
    store: CheckpointStore
    writer: BackgroundWriter
    guard: Guard = field(default_factory=Guard)
    events: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.saving = Saving(self.engine, self.writer, self.emit, {}, lambda: {"guard": self.guard.state()})

    def emit(self, type: str, step: int, **fields: Any) -> None:
        self.events.append((type, step, fields))

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None:
        del seconds, skipped_steps
        if not stats.skipped:
            self.positions.append(done.progress.position)

    def warn(self, step: int, message: str) -> None:
        self.emit("warning", step, message=message)

    def split(self, progress: Progress, error: EngineOutOfMemory) -> None:
        raise error

    def evaluate(self, progress: Progress) -> None: ...
    def export(self, progress: Progress) -> None: ...

    def save(self, progress: Progress) -> None:
        self.saving.save(progress, None)

    def train(self, bad: Callable[[int], bool], most: int = 1) -> Progress:
        loop = Loop(
            engine=self.engine,
            batches=lambda progress: prefetched(_poisoned(progress.position, bad)),
            learning_rate=build_schedule(TrainConfig(), STEPS, 0.05),
            cadence=build_cadence(
                CheckpointConfig(every_steps=5), EvaluateConfig(every_steps=99), total_steps=STEPS
            ),
            guard=self.guard,
            marks=self,
            stop=StopSignal(),
            watchdog=Watchdog(60, 60, pytest.fail),
            total_steps=STEPS,
        )
        rollback = Rollback(self.engine, self.store, self.saving, self.emit, most)
        with self.writer:
            return rollback.train(loop, Progress())

    def named(self, type: str) -> list[tuple[int, dict[str, Any]]]:
        return [(step, fields) for name, step, fields in self.events if name == type]


def _run(folder: Path) -> Run:
    spec = build_spec(folder)
    engine = NumpyEngine(spec, initial_values(VOCABULARY, spec.seed))
    store = CheckpointStore(folder / "checkpoints", keep=3, keep_best=False)
    return Run(engine, store, BackgroundWriter(store))


def _poisoned(position: int, bad: Callable[[int], bool]) -> Generator[StepBatch]:
    documents = draw_documents([6, 11, 8, 5] * 30, seed=4, vocabulary=VOCABULARY)
    rows = MemoryRows([Example(*pair, SourceRef("a", at))] for at, pair in enumerate(documents))
    stream = StepStream([(rows, 1.0)], StepRule(BATCH, None, BatchShape(4, 16, True, 0)), seed=3)
    for batch in stream.steps(position):
        weight = math.nan if bad(batch.position) else batch.loss_weight
        yield dataclasses.replace(batch, loss_weight=weight)


def test_bad_rows_are_passed_over_and_the_run_ends_well(tmp_path: Path):
    run = _run(tmp_path)
    # Steps 8, 9 and 10 of the first try; the checkpoint before them is that of step 5.
    progress = run.train(lambda position: 28 < position <= 40)
    assert (progress.step, progress.passed_over) == (STEPS, ((20, 40),))
    assert progress.position == 40 + (STEPS - 5) * BATCH
    assert run.positions == [*range(4, 29, 4), *range(44, progress.position + 1, 4)]
    assert run.named("rolled_back") == [
        (5, {"from_step": 10, "rows": [20, 40], "reason": run.named("rolled_back")[0][1]["reason"]})
    ]
    assert Progress.of(run.store.load().run_state["progress"]).passed_over == ((20, 40),)


def test_it_equals_a_run_that_never_saw_those_rows(tmp_path: Path):
    bad, good = _run(tmp_path / "bad"), _run(tmp_path / "good")
    bad.train(lambda position: 28 < position <= 40)
    with good.writer:
        _train_without_rows_20_to_40(good)
    assert _arrays(bad.engine) == _arrays(good.engine)


def test_a_second_divergence_is_a_named_end(tmp_path: Path):
    run = _run(tmp_path)
    with pytest.raises(Diverged, match="after going back to a checkpoint once"):
        run.train(lambda position: position > 28)
    assert len(run.named("rolled_back")) == 1
    assert [step for step, _ in run.named("checkpoint")] == [5]


def test_more_rollbacks_when_allowed(tmp_path: Path):
    run = _run(tmp_path)
    with pytest.raises(Diverged, match="2 times"):
        run.train(lambda position: position > 28, most=2)
    assert [fields["rows"] for _, fields in run.named("rolled_back")] == [[20, 40], [20, 52]]


@pytest.mark.parametrize(("first_bad", "most"), [(8, 1), (28, 0)])
def test_without_a_checkpoint_or_leave_it_ends_at_once(tmp_path: Path, first_bad: int, most: int):
    run = _run(tmp_path)
    with pytest.raises(Diverged) as caught:
        run.train(lambda position: position > first_bad, most=most)
    assert "going back" not in str(caught.value)
    assert not run.named("rolled_back")


def _train_without_rows_20_to_40(run: Run) -> None:
    """The same steps by hand, without loop, guard or checkpoints."""
    learning_rate = build_schedule(TrainConfig(), STEPS, 0.05)
    position = 0
    for step in range(STEPS):
        batch = next(_poisoned(40 if position == 20 else position, lambda _: False))
        run.engine.forward_backward(batch.micro_batches, denominator=batch.loss_weight)
        run.engine.optim_step(lr=learning_rate(step), skip_above=None).read()
        position = batch.position


def _arrays(engine: NumpyEngine) -> dict[str, bytes]:
    return {name: bytes(array.data) for name, array in engine.snapshot().arrays.items()}
