"""The worker processes of one machine: started by the server, restarted when they die, ended with it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunewright.service.child_environment import environment_of_child

RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
STOP_SECONDS = 90.0
"""How long a worker has to save and give its job back."""

log = logging.getLogger("tunewright.service")


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """What a local worker is started with. The key goes through the environment, where others do not see
    it."""

    url: str
    key: str
    folder: Path
    log_format: str = "text"

    def start(self) -> subprocess.Popen[bytes]:
        """Start one. Its standard input ends when this process does, however it ends."""
        command = [sys.executable, "-m", "tunewright.cli.main", "worker", "--tied"]
        command += ["--server", self.url, "--folder", str(self.folder)]
        environment = environment_of_child(TUNEWRIGHT_KEY=self.key, TUNEWRIGHT_LOG_FORMAT=self.log_format)
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)


class LocalWorkers:
    """Keeps `count` workers alive until `stop`."""

    def __init__(self, command: WorkerCommand, count: int) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_one, args=(command,), daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every worker save and end; kill those that do not."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _keep_one(self, command: WorkerCommand) -> None:
        wait = RESTART_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            worker = command.start()
            while worker.poll() is None and not self._stopping.wait(0.2):
                pass
            if worker.poll() is None:
                _end(worker)
            elif not self._stopping.is_set():
                log.warning("a worker ended with code %s; starting another one", worker.returncode)
                quick = time.monotonic() - started < LONGEST_RESTART_SECONDS
                wait = min(2 * wait, LONGEST_RESTART_SECONDS) if quick else RESTART_SECONDS
                self._stopping.wait(wait)


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    with suppress(subprocess.TimeoutExpired):
        worker.wait(STOP_SECONDS)
    worker.kill()
    worker.wait()
