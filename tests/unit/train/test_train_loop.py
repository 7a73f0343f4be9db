"""The loop over the NumPy engine and real checkpoints: exact resume, marks, stops, divergence."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engine_cases import build_spec, draw_documents
from numpy_engine import NumpyEngine, initial_values
from tunewright.checkpoint.store import CheckpointStore
from tunewright.config.schema import CheckpointConfig, EvaluateConfig, TrainConfig
from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import MemoryRows
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.errors import EngineOutOfMemory
from tunewright.evaluate.runner import run_evaluation
from tunewright.train.cadence import build_cadence
from tunewright.train.guard import Diverged, Guard
from tunewright.train.loop import train
from tunewright.train.parts import Loop
from tunewright.train.progress import Progress, RunningStep
from tunewright.train.schedule import build_schedule
from tunewright.train.stop import StopSignal
from tunewright.train.watchdog import Watchdog
from tunewright.types import Example, SourceRef, StepBatch, StepStats

VOCABULARY = 24
STEPS = 12


@dataclass
class Recorder:
    """Marks that keep what they are told, and save real checkpoints."""

    engine: NumpyEngine
    store: CheckpointStore
    stop: StopSignal
    stop_after: int | None = None
    calls: list[tuple[str, int]] = field(default_factory=list)
    steps: dict[int, tuple[StepStats, float]] = field(default_factory=dict)
    valid_losses: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None:
        assert seconds >= done.data_seconds >= 0
        self.steps[done.progress.step] = (stats, done.learning_rate)
        if done.progress.step == self.stop_after:
            self.stop.requested = True

    def evaluate(self, progress: Progress) -> None:
        self.calls.append(("evaluate", progress.step))
        batch = next(_stream().steps(0)).micro_batches
        self.valid_losses.append(run_evaluation(self.engine, batch, ())["valid_loss"])

    def warn(self, step: int, message: str) -> None:
        self.warnings.append(message)

    def split(self, progress: Progress, error: EngineOutOfMemory) -> None:
        raise error

    def save(self, progress: Progress) -> None:
        self.calls.append(("save", progress.step))
        self.store.save(progress.step, self.engine.snapshot(), asdict(progress), {}, None)

    def export(self, progress: Progress) -> None:
        self.calls.append(("export", progress.step))


def _stream() -> StepStream:
    documents = draw_documents([6, 11, 8, 5, 9, 13, 7, 10, 12, 6], seed=4, vocabulary=VOCABULARY)
    examples = [
        Example(tokens, weights, SourceRef("a", at)) for at, (tokens, weights) in enumerate(documents)
    ]
    return StepStream(
        [(MemoryRows([e] for e in examples), 1.0)],
        StepRule(batch_size=4, tokens_per_batch=None, shape=BatchShape(1, 16, packing=True, pad_id=0)),
        seed=3,
    )


def _loop(folder: Path, **marks: int) -> Loop:
    spec = build_spec(folder, adapter={"dropout": 0.1})
    engine = NumpyEngine(spec, initial_values(VOCABULARY, spec.seed))
    stream = _stream()
    stop = StopSignal()
    return Loop(
        engine=engine,
        batches=lambda progress: (step for step in stream.steps(progress.position)),
        learning_rate=build_schedule(TrainConfig(warmup_ratio=0.2), STEPS, 0.05),
        cadence=build_cadence(
            CheckpointConfig(every_steps=4),
            EvaluateConfig(every_steps=5),
            total_steps=STEPS,
        ),
        guard=Guard(),
        marks=Recorder(engine, CheckpointStore(folder, keep=3, keep_best=False), stop, **marks),
        stop=stop,
        watchdog=Watchdog(60, 60, pytest.fail),
        total_steps=STEPS,
    )


def _state(loop: Loop) -> dict[str, bytes]:
    return {name: bytes(array.data) for name, array in loop.engine.snapshot().arrays.items()}


def test_whole_run_learns_and_comes_by_every_mark(tmp_path: Path):
    loop = _loop(tmp_path)
    progress = train(loop, Progress())
    assert (progress.step, progress.epoch, progress.position) == (STEPS, 4.0, 40)
    marks = loop.marks
    assert isinstance(marks, Recorder)
    assert list(marks.steps) == list(range(1, STEPS + 1))
    assert marks.valid_losses[-1] < marks.valid_losses[0]
    assert marks.calls == [
        ("evaluate", 0),
        ("export", 3),
        ("save", 4),
        ("evaluate", 5),
        ("export", 6),
        ("save", 8),
        ("export", 9),
        ("evaluate", 10),
        ("evaluate", 12),
        ("save", 12),
    ]


@pytest.mark.parametrize("stop_after", [1, 2, 4, 5, 7, 10])
def test_stopped_and_resumed_equals_the_whole_run_bitwise(tmp_path: Path, stop_after: int):
    whole = _loop(tmp_path / "whole")
    train(whole, Progress())
    first = _loop(tmp_path / "parts", stop_after=stop_after)
    stopped = train(first, Progress())
    # A step is read when the next one is on its way, so that one is finished too.
    assert stop_after <= stopped.step <= stop_after + 1
    second = _loop(tmp_path / "parts")
    loaded = second.marks.store.load()
    assert loaded.step == stopped.step
    second.engine.restore(loaded.engine)
    end = train(second, Progress.of(loaded.run_state))
    assert end == train(_loop(tmp_path / "again"), Progress())
    assert _state(second) == _state(whole)
    assert {**first.marks.steps, **second.marks.steps} == whole.marks.steps


def test_run_without_dropout_state_would_differ(tmp_path: Path):
    """The equality above is able to fail."""
    whole = _loop(tmp_path / "whole")
    train(whole, Progress())
    second = _loop(tmp_path / "whole")
    loaded = second.marks.store.load(tmp_path / "whole" / "step-000008")
    fresh = second.engine.snapshot().values["dropout"]
    second.engine.restore(
        dataclasses.replace(loaded.engine, values={**loaded.engine.values, "dropout": fresh})
    )
    train(second, Progress.of(loaded.run_state))
    assert _state(second) != _state(whole)


def test_three_steps_without_a_finite_gradient_end_the_run(tmp_path: Path):
    loop = _loop(tmp_path)

    def poisoned(progress: Progress) -> Generator[StepBatch]:
        for number, batch in enumerate(_stream().steps(progress.position)):
            yield dataclasses.replace(batch, loss_weight=batch.loss_weight if number < 2 else math.nan)

    loop = dataclasses.replace(loop, batches=poisoned)
    with pytest.raises(Diverged, match="3 steps in a row") as caught:
        train(loop, Progress())
    assert (caught.value.code, caught.value.progress.step) == ("engine.diverged", 5)
    assert all(np.isfinite(value).all() for value in loop.engine.values.values())


def test_loop_and_its_parts_load_no_framework():
    code = (
        "import sys, numpy_engine, tunewright.train.loop, tunewright.checkpoint.store\n"
        "import tunewright.trackers.fanout, tunewright.evaluate.runner\n"
        "bad = {'torch', 'mlx', 'transformers'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    tests = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tests, timeout=60)
