"""The worker: claim a job, work on it, again, with a slot for training and one for checking files. It speaks
HTTP with the server and loads no engine."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunewright.errors import ServiceError
from tunewright.service.ids import WORKER, new_id
from tunewright.service.schemas.lease import Claim
from tunewright.service.signals import stop_event
from tunewright.service.worker.attempt import work_on
from tunewright.service.worker.client import POLL_SECONDS, LeaseLost, ServerAway, ServerClient
from tunewright.service.worker.inputs import RUN
from tunewright.service.worker.machine import find_capabilities, installed_engines

LONGEST_AWAY_SECONDS = 15.0
FORGOTTEN_SECONDS = 7 * 24 * 3600
"""Age at which the folder of a job that nobody came back to is removed."""

log = logging.getLogger("tunewright.worker")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """folder: where job folders lie. tied: end when standard input closes, as it does with the server that
    started this worker."""

    server: str
    key: str
    folder: Path
    name: str
    tied: bool = False


def run_worker(settings: WorkerSettings) -> None:
    """Work until SIGTERM, SIGINT or, when tied, the end of standard input. A running job is saved and given
    back first. Raises ServiceError when the server does not want this worker, or when it could train nothing
    (`service.no-engine`)."""
    stop = stop_event()
    check_engine()
    if settings.tied:
        threading.Thread(target=_set_at_end_of_input, args=(stop,), daemon=True).start()
    settings.folder.mkdir(parents=True, exist_ok=True)
    _forget_old_folders(settings.folder)
    claim = Claim(worker=new_id(WORKER), name=settings.name, capabilities=find_capabilities())
    checks = _Slot(settings, claim.model_copy(update={"phase": "validate"}), stop)
    trains = _Slot(settings, claim.model_copy(update={"phase": "train"}), stop)
    checks.start()
    trains.run()
    checks.join()
    for slot in (trains, checks):
        if slot.error is not None:
            raise slot.error


class _Slot(threading.Thread):
    """Room for one job of a phase: a file is checked while another job trains. An error ends the worker."""

    def __init__(self, settings: WorkerSettings, claim: Claim, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._settings, self._claim, self._stop_event = settings, claim, stop

    def run(self) -> None:
        """Claim and work until the worker is asked to stop."""
        client = ServerClient(self._settings.server, self._settings.key)
        try:
            _claim_until_stopped(client, self._claim, self._settings.folder, self._stop_event)
        except (ServiceError, OSError) as error:
            self.error = error
        finally:
            # The other slot saves and gives its job back.
            self._stop_event.set()
            client.close()


def _claim_until_stopped(client: ServerClient, claim: Claim, folder: Path, stop: threading.Event) -> None:
    wait = POLL_SECONDS
    while not stop.is_set():
        try:
            lease = client.claim(claim)
        except (ServerAway, LeaseLost) as error:
            log.warning("no answer: %s", error)
            stop.wait(wait)
            wait = min(2 * wait, LONGEST_AWAY_SECONDS)
            continue
        wait = POLL_SECONDS
        if lease is not None:
            work_on(client, lease, folder, stop.is_set)
            _forget_old_folders(folder)
        else:
            # Many workers must not ask in step.
            stop.wait(client.poll_seconds * random.uniform(0.7, 1.3))


def check_engine() -> None:
    """Raise ServiceError where no engine is installed: such a worker would fail every job that it claims."""
    if not installed_engines():
        raise ServiceError(
            "this machine has no engine to train with",
            got="neither torch nor mlx",
            hint="pip install 'tunewright[torch]', or run workers on other machines and serve --workers 0",
            code="service.no-engine",
        )


def _set_at_end_of_input(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _forget_old_folders(root: Path) -> None:
    for folder in root.glob("ftjob-*/"):
        if time.time() - _last_use(folder) > FORGOTTEN_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _last_use(folder: Path) -> float:
    """When something was last written there; a folder that another worker just removed is as good as new. A
    run of weeks leaves the time of its folder as it was and writes in its log."""
    found: list[float] = []
    for path in (folder, folder / "stderr.log", folder / RUN / "events.jsonl"):
        with suppress(FileNotFoundError):
            found.append(path.stat().st_mtime)
    return max(found, default=time.time())
