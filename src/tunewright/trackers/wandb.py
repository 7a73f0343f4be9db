"""Weights & Biases: one run there for all attempts of a run here. The only file that imports wandb.

Everything that may wait for a network happens in a thread of its own, so that a step never does. A fault
there is raised by the next `emit`, for which the fan-out reports it and leaves this tracker out.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from tunewright.files import json_bytes, replace_file
from tunewright.trackers.jsonl import read_events
from tunewright.trackers.protocol import EVALUATION_METRICS, STEP_METRICS, Event, TrackedRun
from tunewright.trackers.reports import Reports

PROJECT = "tunewright"
METRICS: Mapping[str, Mapping[str, str]] = {"step": STEP_METRICS, "evaluation": EVALUATION_METRICS}
MARK = "wandb.json"
# Seconds between two marks; what was sent after the last one is sent again after a crash, with equal values.
MARK_SECONDS = 5
# Seconds for a connection, and for what is still unsent at the end; wandb's own values are 90 and for ever.
INIT_SECONDS = 30
FINISH_SECONDS = 30
# Everything above, and the start of wandb's own process.
LONGEST_CLOSE = INIT_SECONDS + FINISH_SECONDS + 15


class WandbTracker:
    """Metrics of steps and evaluations, under their own names over `global_step`."""

    def __init__(self, run: TrackedRun) -> None:
        # Here and not in the thread: two threads that import the same packages can disturb each other.
        self._wandb: Any = import_module("wandb")
        self._run = run
        self._mark = read_mark(run.folder)
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._fault: Exception | None = None
        self._thread = Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Hand one event to the thread. Raises what the thread failed with."""
        if self._fault is not None:
            raise self._fault
        self._events.put(event)

    def close(self) -> None:
        """Send what is left and end the run there; gives up after LONGEST_CLOSE seconds."""
        self._events.put(None)
        self._thread.join(LONGEST_CLOSE)

    def _work(self) -> None:
        try:
            self._check_login()
            run = self._start()
            exit_code = 1
            try:
                exit_code = self._send_all(run)
            finally:
                run.finish(exit_code=exit_code)
            self._keep_mark()
        except Exception as error:  # noqa: BLE001 - a thread edge: whatever breaks outside must not end a run
            self._fault = error

    def _send_all(self, run: Any) -> int:
        """Log what earlier attempts did not send and then this one's events, to the end; the exit code."""
        sent, exit_code, kept = Sent(), 1, monotonic()
        # Those of earlier attempts go through it too, so that a report holds all of its steps.
        reports = Reports(self._run.report_every or 1)
        for event in self._all_events():
            told = reports.take(event) if event["type"] in ("step", "run_finished") else event
            values = sent.new_values(told) if told else {}
            if event["seq"] <= self._mark["seq"]:
                continue
            if values:
                run.log(values)
            self._mark["seq"] = event["seq"]
            if monotonic() - kept > MARK_SECONDS:
                self._keep_mark()
                kept = monotonic()
            exit_code = int(event["type"] != "run_finished" or event["outcome"] == "failed")
        return exit_code

    def _all_events(self) -> Iterator[Event]:
        """The log up to the first event of this attempt, then this attempt."""
        first = self._events.get()
        if first is None:
            return
        for event in read_events(self._run.folder / "events.jsonl"):
            if event["seq"] >= first["seq"]:
                break
            yield event
        yield first
        while (event := self._events.get()) is not None:
            yield event

    def _keep_mark(self) -> None:
        replace_file(self._run.folder / MARK, [json_bytes(self._mark)])

    def _check_login(self) -> None:
        """Without a key wandb would ask for one at the terminal, in the middle of training."""
        wandb = self._wandb
        if wandb.setup().settings.mode not in ("offline", "disabled") and not wandb.login(prompt=False):
            raise ConnectionError("it has no API key: run `wandb login`, or set WANDB_MODE=offline")

    def _start(self) -> Any:
        """The run at wandb, new or gone on with."""
        wandb = self._wandb
        run = wandb.init(
            id=self._mark["id"],
            resume="allow",
            name=self._run.name,
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            dir=str(self._run.folder),
            config=dict(self._run.config),
            settings=wandb.Settings(
                console="off", quiet=True, init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS
            ),
        )
        # wandb's own count only rises; a run that went back to a checkpoint would lose steps by it.
        run.define_metric("*", step_metric="global_step")
        if not run.offline and run.url:
            wandb.termlog(f"this run: {run.url}")
        return run


class Sent:
    """What wandb already has: steps that a restart repeats have the same values and are passed over.

    After a rollback or an amendment the same steps have other values, and are sent again.
    """

    def __init__(self) -> None:
        self._last = dict.fromkeys(METRICS, -1)

    def new_values(self, event: Event) -> dict[str, Any]:
        """The metrics of an event that were not sent before; empty when there are none."""
        kind, step = event["type"], event["step"]
        if kind in ("rolled_back", "amended"):
            self._last = {name: min(last, step) for name, last in self._last.items()}
        if kind not in METRICS or step <= self._last[kind]:
            return {}
        self._last[kind] = step
        values = {name: event[name] for name in METRICS[kind] if event.get(name) is not None}
        return {**values, "global_step": step}


def read_mark(folder: Path) -> dict[str, Any]:
    """`id` of this run at wandb and `seq` of the last event sent there, both kept in the run folder.

    Raises OSError, and ValueError for a file that is none of ours.
    """
    path = folder / MARK
    if not path.exists():
        mark: dict[str, Any] = {"id": secrets.token_hex(8), "seq": 0}
        replace_file(path, [json_bytes(mark)])
        return mark
    mark = json.loads(path.read_text(encoding="utf-8"))
    if mark.keys() != {"id", "seq"}:
        raise ValueError(f"{path} does not hold an id and a seq")
    return mark
