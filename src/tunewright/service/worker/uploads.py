"""Send what a run saves while it trains on: every export, and of the states the newest."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from pathlib import Path

from tunewright.errors import ServiceError
from tunewright.service.worker.client import LeaseLost
from tunewright.service.worker.transfer import Transfer


@dataclass(frozen=True, slots=True)
class _Folder:
    kind: str
    path: Path
    step: int


class Uploads:
    """A thread with a queue. A folder that the run removed meanwhile is passed over: a newer one follows."""

    def __init__(self, transfer: Transfer, run: Path) -> None:
        self._transfer = transfer
        self._run = run
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
        """Wait until everything is sent or the lease is lost."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (folder := self._queue.get()) is not None:
            try:
                self._send(folder)
            except FileNotFoundError:
                continue
            except (LeaseLost, OSError, ServiceError):
                # The attempt itself finds out as well; without these files it only starts further back.
                return

    def _send(self, folder: _Folder) -> None:
        if folder.kind == "checkpoint":
            self._transfer.send_export(folder.path, "checkpoint", folder.step)
        elif folder.step >= self._newest_state:
            self._transfer.send_state(self._run, folder.path, folder.step)
