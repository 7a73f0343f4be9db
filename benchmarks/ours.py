"""One measured process of ours: the real engine under the real training loop. Prints a Report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from measure import Clock, PeakMemory, Report, Step
from workload import SHAPES, draw_conversations, draw_full_rows

from tunewright.config.schema import AdapterConfig
from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import MemoryRows
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.engine import build_engine
from tunewright.errors import EngineOutOfMemory
from tunewright.train.cadence import Cadence
from tunewright.train.guard import Guard
from tunewright.train.loop import train
from tunewright.train.parts import Loop
from tunewright.train.progress import Progress, RunningStep
from tunewright.train.stop import StopSignal
from tunewright.train.watchdog import Watchdog
from tunewright.types import StepBatch, StepStats


class Timed:
    """Marks that keep the time of each step and do nothing else."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.times: list[tuple[float, float]] = []
        self.work: list[tuple[int, int, float]] = []
        self.losses: list[float] = []

    def note(self, batch: StepBatch) -> StepBatch:
        """Remember what a step holds before it runs; the one before it ends here."""
        self.times.append(self.clock.tick())
        lengths = [n for micro in batch.micro_batches for row in micro.doc_lengths for n in row]
        self.work.append((batch.tokens, batch.loss_tokens, float(np.square(lengths, dtype=float).sum())))
        return batch

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None:
        self.losses.append(stats.sums.loss / stats.sums.weight)

    def steps(self) -> list[Step]:
        """All steps, once training is over. The first time is that before the first step."""
        self.times.append(self.clock.tick())
        return [
            Step(*work, *times, loss)
            for work, times, loss in zip(self.work, self.times[1:], self.losses, strict=True)
        ]

    def warn(self, step: int, message: str) -> None: ...
    def evaluate(self, progress: Progress) -> None: ...
    def save(self, progress: Progress) -> None: ...
    def export(self, progress: Progress) -> None: ...

    def split(self, progress: Progress, error: EngineOutOfMemory) -> None:
        raise error


def main() -> None:
    """Train `steps` steps of `tokens` tokens each and report."""
    options = _options()
    memory = PeakMemory(options.device)
    engine = build_engine(_spec(options))
    shape = SHAPES[options.model]
    kinds = {"conversations": draw_conversations, "full": draw_full_rows}
    limit = {"longest": options.longest} if options.rows == "conversations" else {"length": options.longest}
    examples = kinds[options.rows](options.documents, vocabulary=shape.vocabulary, **limit)
    rule = StepRule(1, options.tokens, BatchShape(1, options.tokens, True, 0))
    stream = StepStream([(MemoryRows([[example] for example in examples]), 1.0)], rule, seed=0)
    timed = Timed()

    def batches(progress: Progress) -> Generator[StepBatch]:
        for batch in stream.steps(progress.position):
            yield timed.note(batch)

    loop = Loop(
        engine=engine,
        batches=batches,
        learning_rate=lambda step: 1e-4,
        cadence=Cadence(options.steps, 10**9, 10**9, "never"),
        guard=Guard("warn"),
        marks=timed,
        stop=StopSignal(),
        watchdog=Watchdog(3600, 3600, lambda seconds: None),
        total_steps=options.steps,
    )
    train(loop, Progress())
    steps = timed.steps()
    facts = engine.facts
    weights = facts.parameters * (2 if options.dtype == "bf16" else 4)
    details = {"attention": facts.attention, "device": facts.device_name, "versions": dict(facts.versions)}
    details["path"] = getattr(facts, "path", "plain")
    Report(options.name, steps, memory.read(weights), details).print()


def _spec(options: argparse.Namespace) -> EngineSpec:
    return EngineSpec(
        model_folder=Path(options.folder),
        model_name=options.model,
        device=options.device,
        dtype=options.dtype,
        precision=options.precision,
        attention="auto",
        adapter=AdapterConfig(rank=16, alpha=32, targets="all-linear"),
        adapter_folder=None,
        optimizer="adamw",
        weight_decay=0.0,
        betas=(0.9, 0.999),
        epsilon=1e-8,
        max_grad_norm=1.0,
        activation_checkpointing=False,
        deterministic=False,
        seed=0,
        **json.loads(options.spec),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="ours")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rows", choices=("conversations", "full"), default="conversations")
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--spec", default="{}", help="more fields of EngineSpec as JSON")
    options = parser.parse_args()
    torch.manual_seed(0)
    return options


if __name__ == "__main__":
    main()
