"""What a run does at each mark of the loop: events, evaluation, checkpoints, exports."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from tunewright.checkpoint.manifest import Metric
from tunewright.checkpoint.store import CheckpointStore
from tunewright.engines.protocol import Engine
from tunewright.errors import EngineError
from tunewright.evaluate.runner import run_evaluation
from tunewright.files import write_file, write_json
from tunewright.run.folder import RunFolder, new_folder
from tunewright.train.progress import Progress, RunningStep
from tunewright.types import Batch, StepStats

MEBIBYTE = 2**20
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


class Emit(Protocol):
    """Send one event to the event log and every tracker."""

    def __call__(self, type: str, step: int, **fields: Any) -> None: ...


@dataclass(slots=True)
class RunMarks:
    """Implements train.loop.Marks. identity: hashes and versions that a checkpoint carries; run_state: what
    a resume needs beside the engine's state."""

    engine: Engine
    emit: Emit
    folder: RunFolder
    store: CheckpointStore
    held_out: Sequence[Batch]
    metrics: Sequence[str]
    model_folder: Path
    chat_template: Path | None
    keep_exports: int
    identity: Mapping[str, Any]
    run_state: Mapping[str, Any]
    losses: dict[int, float] = field(default_factory=dict[int, float])
    last_loss: float = 0.0

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None:
        """Emit the step event with the one metric vocabulary."""
        sums = stats.sums
        self.last_loss = sums.loss / max(sums.weight, 1e-30)
        self.emit(
            "step",
            done.progress.step,
            loss=self.last_loss,
            learning_rate=done.learning_rate,
            gradient_norm=stats.gradient_norm,
            tokens_per_second=done.batch.tokens / max(seconds, 1e-9),
            gpu_memory_used=self.engine.memory_used_bytes() / MEBIBYTE,
            epoch=done.progress.epoch,
            global_step=done.progress.step,
            loss_tokens=done.batch.loss_tokens,
            token_accuracy=sums.correct / max(sums.tokens, 1),
            data_seconds=done.data_seconds,
            step_seconds=seconds,
            communication_seconds=0.0,
            skipped_steps=skipped_steps,
        )

    def evaluate(self, progress: Progress) -> None:
        """Evaluate on the held-out batches; nothing when there are none."""
        if not self.held_out:
            return
        started = perf_counter()
        found = run_evaluation(self.engine, self.held_out, self.metrics)
        self.losses[progress.step] = found["valid_loss"]
        self.emit(
            "evaluation",
            progress.step,
            seconds=perf_counter() - started,
            epoch=progress.epoch,
            global_step=progress.step,
            **found,
        )

    def save(self, progress: Progress) -> None:
        """Save a resumable checkpoint, ranked by the held-out loss of this step if there is one. While the
        loss is not finite nothing is saved: ruined weights would push good checkpoints out."""
        if not self._is_finite(progress.step, "checkpoint"):
            return
        saved = self.store.save(
            progress.step,
            self.engine.snapshot(),
            {**self.run_state, "progress": asdict(progress)},
            self.identity,
            Metric("valid_loss", self.losses[progress.step]) if progress.step in self.losses else None,
        )
        self.emit("checkpoint", progress.step, path=str(saved.path), bytes=saved.bytes, seconds=saved.seconds)

    def export(self, progress: Progress) -> None:
        """Write a servable export of this step and drop the oldest; none while the loss is not finite."""
        if not self._is_finite(progress.step, "export"):
            return
        self.write_export(f"step-{progress.step:06d}", progress.step, merge=False)
        steps = sorted(self.folder.exports.glob("step-*"))
        for old in steps[: -self.keep_exports]:
            shutil.rmtree(old)

    def write_export(self, name: str, step: int, *, merge: bool) -> Path:
        """Export into exports/<name> with tokenizer, chat template and certificate; replaces an older one."""
        started = perf_counter()
        final = self.folder.exports / name
        with new_folder(final) as folder:
            certificate = self.engine.export(folder, merge=merge)
            self._copy_tokenizer(folder)
            write_json(folder / "certificate.json", {"step": step, **certificate})
        kind = "adapter" if (final / "adapter_config.json").exists() else "model"
        self.emit("export", step, path=str(final), kind=kind, seconds=perf_counter() - started)
        return final

    def check_finite(self, step: int) -> None:
        """Raise EngineError (`engine.diverged`) when the last loss was not finite."""
        if not math.isfinite(self.last_loss):
            raise EngineError(
                "the run ended with a loss that is not finite",
                where=f"step {step}",
                got=f"loss {self.last_loss}",
                hint="lower train.learning_rate; an earlier checkpoint can be resumed with --resume PATH",
                code="engine.diverged",
            )

    def _is_finite(self, step: int, what: str) -> bool:
        if math.isfinite(self.last_loss):
            return True
        self.emit("warning", step, message=f"no {what} at step {step}: the loss is {self.last_loss}")
        return False

    def _copy_tokenizer(self, folder: Path) -> None:
        files = {name: self.model_folder / name for name in TOKENIZER_FILES}
        if self.chat_template:
            files["chat_template.jinja"] = self.chat_template
        for name, source in files.items():
            # Exports of whole models come with a generation_config.json of their own.
            if source.exists() and not (folder / name).exists():
                write_file(folder / name, [source.read_bytes()])
