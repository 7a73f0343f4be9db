"""Send what a run saves while it trains on: every export, and of the states the newest."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunewright.errors import TunewrightError
from tunewright.service.worker.client import LeaseLost
from tunewright.service.worker.transfer import Transfer

RETRY_SECONDS = (1.0, 5.0)
"""Pauses before a folder is tried again. A server that is away costs none: each call waits for it."""
_TOLD = {"state": "The state of step {step}", "checkpoint": "The checkpoint model of step {step}"}
log = logging.getLogger("tunewright.worker")


@dataclass(frozen=True, slots=True)
class _Folder:
    kind: Literal["state", "checkpoint"]
    path: Path
    step: int


class Uploads:
    """A thread with a queue. warn: takes a fact and a sentence about a folder that could not be stored."""

    def __init__(
        self,
        transfer: Transfer,
        run: Path,
        warn: Callable[[str, str], None],
        *,
        retry_seconds: tuple[float, ...] = RETRY_SECONDS,
    ) -> None:
        self._transfer = transfer
        self._run = run
        self._warn = warn
        self._retry_seconds = retry_seconds
        self._queue: queue.Queue[_Folder | None] = queue.Queue()
        self._newest_state = -1
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add_state(self, path: Path, step: int) -> None:
        """Send a checkpoint of the run, unless a newer one comes before its turn."""
        self._newest_state = step
        self._queue.put(_Folder("state", path, step))

    def add_export(self, path: Path, step: int) -> None:
        """Send a checkpoint model."""
        self._queue.put(_Folder("checkpoint", path, step))

    def finish(self) -> None:
        """Wait until everything is sent or told of, or the lease is lost."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (folder := self._queue.get()) is not None:
            try:
                self._send_or_tell(folder)
            except LeaseLost:
                # The attempt finds out as well; nothing of it is wanted any more.
                return
            except Exception:
                # Even the warning failed. The states that follow may still go.
                log.exception("%s of step %s: the server could not be told", folder.kind, folder.step)

    def _send_or_tell(self, folder: _Folder) -> None:
        what = _TOLD[folder.kind].format(step=folder.step)
        fault = ""
        for pause in (*self._retry_seconds, 0.0):
            if self._is_superseded(folder):
                return
            try:
                self._send(folder)
                return
            except LeaseLost:
                raise
            except Exception as error:
                if folder.kind == "state" and isinstance(error, FileNotFoundError):
                    # A run removes a state when it has a newer one.
                    return
                # Whatever it is, the run goes on, and its owner is told.
                fault = _reason(error)
                log.warning("%s was not stored: %s", what, fault, exc_info=error)
            if not folder.path.is_dir():
                fault = "it was removed before it could be sent"
                break
            time.sleep(pause)
        if not self._is_superseded(folder):
            self._warn(f"lost:{folder.kind}:{folder.step}", f"{what} could not be stored: {fault}")

    def _is_superseded(self, folder: _Folder) -> bool:
        return folder.kind == "state" and folder.step < self._newest_state

    def _send(self, folder: _Folder) -> None:
        if folder.kind == "checkpoint":
            self._transfer.send_export(folder.path, "checkpoint", folder.step)
        else:
            self._transfer.send_state(self._run, folder.path, folder.step)


def _reason(error: Exception) -> str:
    """In words that name no path of this machine."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return error.what if isinstance(error, TunewrightError) else type(error).__name__
