"""What every tracker gets: events, with one vocabulary of metric names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Event = Mapping[str, Any]


class Emit(Protocol):
    """Send one event to the event log and every tracker. Raises OSError when the log cannot be written."""

    def __call__(self, type: str, step: int, **fields: Any) -> None: ...


EVENT_TYPES = (
    "run_started",
    "data",
    "rehearsed",
    "step",
    "evaluation",
    "checkpoint",
    "export",
    "sample",
    "warning",
    "amended",
    "resumed",
    "rolled_back",
    "run_finished",
)

# name → unit: metrics of `step` and `evaluation` events, of the API, of CSV files and outside trackers.
STEP_METRICS = {
    "loss": "nats per label",
    "learning_rate": "",
    "gradient_norm": "",
    "tokens_per_second": "real tokens/s",
    "gpu_memory_used": "MiB",
    "epoch": "passes",
    "global_step": "steps",
    "loss_tokens": "labels",
    "token_accuracy": "share",
    "data_seconds": "s",
    "step_seconds": "s",
    "communication_seconds": "s",
    "skipped_steps": "steps",
}
EVALUATION_METRICS = {
    "valid_loss": "nats per label",
    "valid_token_accuracy": "share",
    "perplexity": "",
}


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker knows of the run before its first event. config: the request with the resolved plan.
    report_every: steps that are told as one, see reports.py; None leaves that to the tracker."""

    folder: Path
    name: str
    total_steps: int
    config: Mapping[str, Any]
    report_every: int | None = None


class Tracker(Protocol):
    """Receives every event of a run in order."""

    def emit(self, event: Event) -> None: ...
    def close(self) -> None: ...
