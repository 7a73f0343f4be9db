"""The training of a claimed job: start `tunewright train`, tell what it does, send what it saves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import ExitCode
from tunewright.service.faults import BAD_FILE
from tunewright.service.schemas.lease import EventModel, Finish, Lease, Report
from tunewright.service.worker.checking import read_error
from tunewright.service.worker.child import LeashedChild
from tunewright.service.worker.client import LeaseLost, ServerClient
from tunewright.service.worker.inputs import RUN, fetch_start, write_run_file
from tunewright.service.worker.keeper import LeaseKeeper
from tunewright.service.worker.tail import EventTail
from tunewright.service.worker.transfer import Transfer
from tunewright.service.worker.translate import Translator
from tunewright.service.worker.uploads import Uploads

POLL_SECONDS = 0.2
REPORT_SECONDS = 1.0
"""Least time between two reports of steps, however fast they are: each is a transaction on the server."""


class Training:
    """One attempt at training a job in its folder on this machine."""

    def __init__(
        self, client: ServerClient, lease: Lease, folder: Path, keeper: LeaseKeeper, transfer: Transfer
    ) -> None:
        self._client = client
        self._lease = lease
        self._folder = folder
        self._keeper = keeper
        self._transfer = transfer
        self._run = folder / RUN
        self._tail = EventTail(self._run / "events.jsonl")
        every = lease.settings["evaluate"]["every_steps"] if lease.validation else 0
        self._translator = Translator(every, hidden=f"{folder.resolve()}/")
        self._last: Mapping[str, Any] = {}

    def train(self, stopping: Callable[[], bool]) -> Finish:
        """Train to the end, or until the owner or this worker stops it.

        Raises LeaseLost, OSError and ServiceError.
        """
        fetch_start(self._lease, self._folder, self._transfer)
        run_file = write_run_file(self._lease, self._folder)
        arguments = ["train", run_file.name, "--out", RUN]
        if (self._run / "config.yaml").exists():
            arguments.append("--resume")
            # A log that begins elsewhere does not say it.
            self._translator.total_steps = _planned_steps(self._run)
        child = LeashedChild(arguments, folder=self._folder, lease_seconds=self._lease.lease_seconds)
        self._keeper.attend(child)
        uploads = Uploads(self._transfer, self._run, self._warn)
        try:
            code = self._watch(child, uploads, stopping)
        finally:
            self._keeper.attend(None)
            child.close()
            uploads.finish()
        return self._finish(code, stopping)

    def _watch(self, child: LeashedChild, uploads: Uploads, stopping: Callable[[], bool]) -> int:
        is_told = False
        due = time.monotonic()
        while (code := child.wait(POLL_SECONDS)) is None:
            if self._keeper.is_lost:
                raise LeaseLost(self._lease.job)
            if self._keeper.wanted == "cancel":
                child.kill()
            elif not is_told and (self._keeper.wanted == "pause" or stopping()):
                child.stop()
                is_told = True
            if time.monotonic() >= due:
                self._tell(self._tail.read(), uploads)
                due = time.monotonic() + REPORT_SECONDS
        while events := self._tail.read():
            self._tell(events, uploads)
        return code

    def _tell(self, events: Sequence[Mapping[str, Any]], uploads: Uploads) -> None:
        if not events:
            return
        report = self._translator.report(events)
        self._keeper.call(lambda: self._client.report(self._lease, report))
        # After the report: a checkpoint takes its figures from there.
        for event in events:
            self._last = event
            # The run tells its paths as it was told its folder: from where it was started.
            path = self._folder / str(event.get("path", ""))
            if event["type"] == "checkpoint":
                uploads.add_state(path, int(event["step"]))
            elif event["type"] == "export" and path.name != "final":
                uploads.add_export(path, int(event["step"]))

    def _warn(self, fact: str, message: str) -> None:
        event = EventModel(message=message, level="warn", fact=fact)
        self._keeper.call(lambda: self._client.report(self._lease, Report(events=[event])))

    def _finish(self, code: int, stopping: Callable[[], bool]) -> Finish:
        step = self._translator.step
        if code == ExitCode.DONE:
            final = self._run / "exports" / "final"
            # The end of the last epoch is a checkpoint like the others; its bytes are stored once.
            self._transfer.send_export(final, "checkpoint", step)
            self._transfer.send_export(final, "model", step)
            return Finish(outcome="succeeded", exit_code=code, step=step)
        asked = self._keeper.wanted != "run" or stopping()
        # A trainer that is still being loaded ends by the signal itself, and has nothing to save.
        has_stopped = code in (ExitCode.PREEMPTED, 128 + signal.SIGTERM)
        if asked and (has_stopped or self._keeper.wanted == "cancel"):
            return Finish(outcome="stopped", exit_code=code, step=step)
        return Finish(outcome="failed", exit_code=code, step=step, **self._fault(code))

    def _fault(self, code: int) -> dict[str, Any]:
        if self._last.get("type") == "run_finished" and self._last.get("outcome") == "failed":
            hidden = f"{self._folder.resolve()}/"
            message = str(self._last["message"]).partition("\nhint:")[0].replace(hidden, "")
            found = str(self._last["code"])
        else:
            known, message = read_error(self._folder / "stderr.log")
            found = known or f"exit_code_{code}"
        if code == ExitCode.DATA_ERROR:
            return {"code": BAD_FILE, "message": message, "param": "training_file"}
        return {"code": found, "message": message, "param": None}


def _planned_steps(run: Path) -> int:
    """Steps of the whole run by its plan; 0 before it has one."""
    try:
        return int(json.loads((run / "plan.json").read_bytes())["total_steps"])
    except FileNotFoundError:
        return 0
