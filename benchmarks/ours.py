"""One measured process of ours: the real engine under the real training loop. Writes a Report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from kernel_profile import StepProfile
from measure import PeakMemory, Stopwatch, Work
from real_rows import read_rows
from workload import SHAPES, draw_documents

from tunewright.config.schema import AdapterConfig
from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import MemoryRows
from tunewright.data.shard import EpochOrder
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.engines.batches import MOST_ROWS, MOST_TOKENS
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
from tunewright.types import Example, StepBatch, StepStats

ENDLESS = 10**9


class Losses:
    """Marks that keep the loss of each step and do nothing else."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None:
        self.values.append(stats.sums.loss / stats.sums.weight)

    def warn(self, step: int, message: str) -> None: ...
    def evaluate(self, progress: Progress) -> None: ...
    def save(self, progress: Progress) -> None: ...
    def export(self, progress: Progress) -> None: ...

    def split(self, progress: Progress, error: EngineOutOfMemory) -> None:
        raise error


def main() -> None:
    """Train, then report."""
    options = _options()
    stopwatch = Stopwatch(warm_up=options.warm_up, turn=options.turn)
    memory = PeakMemory(options.device)
    started = perf_counter()
    engine = build_engine(_spec(options))
    build_seconds = perf_counter() - started
    stream = _stream(options)
    profile = StepProfile(options.device, options.steps, options.profile)
    losses = Losses()

    def batches(progress: Progress) -> Generator[StepBatch]:
        for number, batch in enumerate(stream.steps(progress.position)):
            profile.before_step(number)
            if not stopwatch.begin(_work(batch)):
                return
            yield batch

    loop = Loop(
        engine=engine,
        batches=batches,
        learning_rate=lambda step: options.rate,
        cadence=Cadence(ENDLESS, ENDLESS, ENDLESS, "never"),
        guard=Guard("warn"),
        marks=losses,
        stop=StopSignal(),
        watchdog=Watchdog(3600, 3600, lambda seconds: None),
        total_steps=options.steps + options.profile,
    )
    train(loop, Progress())
    stopwatch.end()
    facts = engine.facts
    weights = facts.parameters * (4 if options.dtype == "fp32" else 2)
    details = {
        "attention": facts.attention,
        "path": facts.path,
        "device": facts.device_name,
        "build_seconds": build_seconds,
        "versions": dict(facts.versions),
        "profile": profile.table(),
        "profiled_steps": options.profile,
    }
    stopwatch.report(options.name, losses.values, memory.read(weights), details)


def _stream(options: argparse.Namespace) -> StepStream:
    rows = MemoryRows([[document] for document in _in_drawn_order(_documents(options))])
    shape = BatchShape(1, options.tokens, True, 0)
    rule = StepRule(options.batch, None if options.batch else options.tokens, shape)
    return StepStream([(rows, 1.0)], rule, seed=0)


def _documents(options: argparse.Namespace) -> list[Example]:
    if options.texts:
        return read_rows(options.texts)
    vocabulary = SHAPES[options.model].vocabulary
    return draw_documents(options.rows, options.documents, longest=options.longest, vocabulary=vocabulary)


def _in_drawn_order(documents: Sequence[Example]) -> list[Example]:
    """Rows that the stream's shuffling brings into the order in which they were drawn, the peer's."""
    order_N = EpochOrder([(len(documents), 1.0)], 0).rows(0, len(documents)).row_N
    return [documents[place] for place in np.argsort(order_N)]


def _work(batch: StepBatch) -> Work:
    lengths = [n for micro in batch.micro_batches for row in micro.doc_lengths for n in row]
    return Work(batch.tokens, batch.loss_tokens, float(np.square(lengths, dtype=float).sum()))


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
        checkpointed_layers=0,
        deterministic=False,
        seed=0,
        sample=tuple(row.tokens_T[:MOST_TOKENS] for row in _documents(options)[:MOST_ROWS]),
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
    parser.add_argument("--tokens", type=int, default=2048, help="of a step and of a pass")
    parser.add_argument("--batch", type=int, default=0, help="documents of a step, instead of tokens")
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--texts", help="a file of real_rows.py, instead of drawn documents")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=ENDLESS)
    parser.add_argument("--warm-up", type=int, default=0)
    parser.add_argument("--turn", type=int, default=0)
    parser.add_argument("--profile", type=int, default=0, help="steps after the timed ones to profile")
    parser.add_argument("--spec", default="{}", help="more fields of EngineSpec as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
