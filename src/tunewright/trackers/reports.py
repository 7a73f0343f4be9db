"""Several steps told as one: what `logging.every_steps` sends to the terminal and to outside trackers.

events.jsonl never goes through here; it has every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright.trackers.protocol import Event

# Means over the steps of a report; whatever else a step tells is that of its last step.
MEANS = (
    "loss",
    "gradient_norm",
    "loss_tokens",
    "token_accuracy",
    "data_seconds",
    "step_seconds",
    "communication_seconds",
)


class Reports:
    """Collects steps until their number is a multiple of `every`, or the run ends.

    Steps that come again, after a restart or a rollback, take the place of what they were.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._steps: list[Event] = []

    def take(self, event: Event) -> Event | None:
        """The report that is due with this event, if one is."""
        if event["type"] == "run_finished":
            return self._report()
        if event["type"] != "step":
            return None
        self._steps = [*(step for step in self._steps if step["step"] < event["step"]), event]
        return self._report() if event["step"] % self._every == 0 else None

    def _report(self) -> Event | None:
        steps, self._steps = self._steps, []
        return merge_steps(steps) if steps else None


def merge_steps(steps: Sequence[Event]) -> Event:
    """One event of several steps: each step counts alike, and tokens per second are over their whole time.
    A figure that is null at one of them (not finite) is null."""
    last = steps[-1]
    if len(steps) == 1:
        return last
    means = {name: _mean([step[name] for step in steps]) for name in MEANS if name in last}
    return {**last, **means, **_rate(steps)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _rate(steps: Sequence[Event]) -> dict[str, Any]:
    if not {"tokens_per_second", "step_seconds"} <= steps[-1].keys():
        return {}
    seconds = sum(step["step_seconds"] for step in steps)
    tokens = sum(step["tokens_per_second"] * step["step_seconds"] for step in steps)
    return {"tokens_per_second": tokens / max(seconds, 1e-9)}
