"""From the events of a run folder to what the API tells: OpenAI's words, and figures by step."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tunewright.service.schemas.lease import EventModel, Report
from tunewright.service.wording import metrics_data, metrics_message
from tunewright.trackers.protocol import EVALUATION_METRICS, STEP_METRICS

JUMPED = re.compile(r"step \d+ jumped: ")
"""How train.guard begins its warning."""
FIGURES = (*STEP_METRICS, *EVALUATION_METRICS)


@dataclass(slots=True)
class Translator:
    """Remembers what a report needs from earlier events. evaluate_every: steps between evaluations; 0 when
    nothing is held out. A step that is evaluated is told once its evaluation is there."""

    evaluate_every: int
    hidden: str = ""
    total_steps: int = 0
    step: int = 0
    _figures: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    _held: Mapping[str, Any] | None = None
    _jumps: int = 0
    _jumps_told: int = 0

    def report(self, events: Sequence[Mapping[str, Any]]) -> Report:
        """What these events, in the order of the log, add to the job."""
        told: list[EventModel] = []
        changed: dict[int, dict[str, Any]] = {}
        for event in events:
            kind, step = event["type"], int(event["step"])
            if kind == "run_started":
                self.total_steps = int(event["total_steps"])
            elif kind == "resumed":
                # A run that was saved at its end has no step left to tell.
                self.step = max(self.step, step)
            told += self._overdue(kind, event)
            if kind in ("step", "evaluation"):
                found = {name: event[name] for name in FIGURES if name in event}
                # A step that is trained again starts anew; its evaluation adds to it.
                known = {} if kind == "step" else self._figures.get(step, {})
                self._figures = {step: {**known, **found}}
                changed[step] = {**changed.get(step, {}), **found}
                self.step = max(self.step, step)
            if kind == "step":
                if self._is_evaluated(step):
                    self._held = event
                else:
                    told.append(self._metrics_event(event))
            elif kind == "warning" and JUMPED.match(event["message"]):
                told += self._jump(event)
            elif kind == "evaluation" and self._held is not None:
                told.append(self._metrics_event(self._held))
                self._held = None
            else:
                told += self._messages(event)
        return Report(events=told, metrics=changed, step=self.step, total_steps=self.total_steps or None)

    def _is_evaluated(self, step: int) -> bool:
        every = self.evaluate_every
        return every > 0 and (step % every == 0 or step == self.total_steps)

    def _metrics_event(self, event: Mapping[str, Any]) -> EventModel:
        step = int(event["step"])
        figures = self._figures.get(step, {})
        return EventModel(
            message=metrics_message(step, self.total_steps, figures),
            type="metrics",
            data=metrics_data(step, self.total_steps, figures),
            fact=f"step:{step}",
            created_at=_seconds(event["time"]),
        )

    def _overdue(self, kind: str, event: Mapping[str, Any]) -> list[EventModel]:
        """What waited for its end, which this event shows."""
        told: list[EventModel] = []
        # Saves are told late, so only another step or the end says that no evaluation follows.
        if self._held is not None and (
            kind == "run_finished" or (kind == "step" and event["step"] != self._held["step"])
        ):
            told.append(self._metrics_event(self._held))
            self._held = None
        if kind == "run_finished" and self._jumps > self._jumps_told:
            told.append(self._jumps_event(event))
        return told

    def _jump(self, event: Mapping[str, Any]) -> list[EventModel]:
        """The first step that jumped as it is, and how many there were at 10, 100, 1000, …: rows that differ
        much let hundreds jump, which would bury everything else."""
        self._jumps += 1
        if self._jumps == 1:
            self._jumps_told = 1
            return [self._message(event)]
        return [self._jumps_event(event)] if str(self._jumps).strip("0") == "1" else []

    def _jumps_event(self, event: Mapping[str, Any]) -> EventModel:
        self._jumps_told = self._jumps
        return EventModel(
            message=f"{self._jumps} steps jumped up to step {event['step']}",
            level="warn",
            fact=f"jumped:{event['step']}:{self._jumps}",
            created_at=_seconds(event["time"]),
        )

    def _data_event(self, event: Mapping[str, Any]) -> EventModel:
        """What was found in the rows: once, however often the run starts, and once more after the last step
        where rows were read when their turn came."""
        is_warned = any(found["severity"] != "note" for found in event["findings"])
        return EventModel(
            message=f"Data: {event['message']}".replace(self.hidden, ""),
            level="warn" if is_warned else "info",
            fact="data:end" if event["at_end"] else "data",
            created_at=_seconds(event["time"]),
        )

    def _messages(self, event: Mapping[str, Any]) -> list[EventModel]:
        if event["type"] == "data":
            return [self._data_event(event)] if event["findings"] else []
        return [self._message(event)] if event["type"] in _MESSAGES else []

    def _message(self, event: Mapping[str, Any]) -> EventModel:
        level, text = _MESSAGES[event["type"]]
        message = text.format_map({"message": "", "reason": "", **event}).replace(self.hidden, "")
        digest = hashlib.sha256(f"{event['time']} {message}".encode()).hexdigest()[:16]
        return EventModel.model_validate(
            {
                "message": message,
                "level": level,
                "fact": f"{event['type']}:{event['step']}:{digest}",
                "created_at": _seconds(event["time"]),
            }
        )


_MESSAGES = {
    "warning": ("warn", "{message}"),
    "rolled_back": ("warn", "Went back to step {step}: {reason}"),
    "amended": ("warn", "Settings of the run were amended: {reason}"),
    "resumed": ("info", "Resumed from step {from_step}"),
}


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
