"""A whole service as processes that can be killed, frozen and cut off: database, server, workers, trainers.

Every worker has a proxy of its own and so have the clients, so that each can be cut off alone. What workers
ask and are answered is noted there, outside of the code that is tried.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from chaos_database import PostgresDatabase
from processes import child_environment, command_line
from service_server import descendants, kill_if_ours, wait_until
from tap_proxy import Call, TapProxy
from tunewright.service.keys import create_key
from tunewright.service.server import open_service
from tunewright.service.settings import ServeSettings

LIGHT = Path(__file__).parent / "light_trainer" / "site"
_GRANTED = re.compile(rb'"job":"([^"]+)","attempt":(\d+)')
_ABOUT = re.compile(r"/worker/jobs/([^/]+)/([a-z]+)")
Note = Callable[..., None]


@dataclass
class Worker:
    """One worker: a door to the server and the process of the moment. born: how often it was started in
    another folder."""

    name: str
    tap: TapProxy
    born: int = 0
    process: subprocess.Popen[bytes] | None = None
    frozen: list[int] = field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        """Whether its process runs, frozen or not."""
        return self.process is not None and self.process.poll() is None


class ChaosService:
    """Starts everything below `folder`. light: train with the NumPy engine, by steps of so many seconds; 0
    with the real one."""

    def __init__(
        self, folder: Path, note: Note, *, lease_seconds: float, workers: int, light: float, postgres: bool
    ) -> None:
        self.folder = folder
        self.lease_seconds = lease_seconds
        self.database = PostgresDatabase() if postgres else None
        self.home = folder / "home"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.note = note
        self._light = light
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True)
        settings = ServeSettings(home=self.home, database=self.database.url if self.database else None)
        self.service = open_service(settings)
        self.user_key, self.worker_key = self._new_key("jobs"), self._new_key("worker")
        self.server: subprocess.Popen[bytes] | None = None
        self.start_server()
        self.clients = TapProxy(self.port, lambda call: None)
        self.workers: list[Worker] = []
        for _ in range(workers):
            self.add_worker()

    def _new_key(self, scope: Any) -> str:
        with self.service.database.write() as connection:
            made = create_key(connection, self.service.pepper, name=scope, project="default", scopes=(scope,))
        return made.secret

    def _noted(self, worker: str, call: Call) -> None:
        common = {"t0": call.t0, "t": call.t, "worker": worker}
        if call.path == "/worker/claim":
            if found := _GRANTED.search(call.body):
                self.note("claim", **common, job=found[1].decode(), attempt=int(found[2]))
            elif call.code == 204:
                self.note("idle", t=call.t, worker=worker)
        elif (about := _ABOUT.match(call.path)) and about[2] != "blobs":
            self.note("write", **common, job=about[1], verb=about[2], attempt=call.attempt, code=call.code)

    def start_server(self) -> None:
        """Start the server and wait until it answers."""
        given = ["serve", "--home", self.home, "--port", str(self.port), "--workers", "0"]
        given += ["--lease-seconds", f"{self.lease_seconds:g}", "--inference", "off"]
        given += ["--limit", "requests_per_minute=0"]
        if self.database:
            given += ["--database", self.database.url]
        process = self._start("server.log", given)
        self.server = process

        def answers() -> bool:
            with suppress(httpx2.TransportError):
                return httpx2.get(f"http://127.0.0.1:{self.port}/health", timeout=5).status_code == 200
            return process.poll() is not None

        wait_until(answers, "the server answers")
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")

    def kill_server(self) -> None:
        """SIGKILL."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def add_worker(self) -> None:
        """Start one more worker."""
        name = f"w{len(self.workers)}"
        self.workers.append(Worker(name, TapProxy(self.port, lambda call: self._noted(name, call))))
        self.start_worker(self.workers[-1])

    def start_worker(self, worker: Worker, *, elsewhere: bool = False) -> None:
        """Start a worker, in its folder or, as on another machine, in a new one."""
        worker.born += elsewhere
        folder = self.folder / f"{worker.name}-{worker.born}"
        given = ["worker", "--server", worker.tap.url, "--folder", folder, "--name", worker.name]
        worker.process = self._start(f"{worker.name}.log", given, TUNEWRIGHT_KEY=self.worker_key)

    def kill_worker(self, worker: Worker) -> None:
        """SIGKILL to the worker alone: what it started has to notice by itself."""
        if worker.process is not None:
            worker.process.kill()
            worker.process.wait()

    def trainers(self, worker: Worker) -> list[int]:
        """Training and checking processes below a worker."""
        below = descendants(worker.process.pid) if worker.process and worker.is_alive else []
        return [pid for pid in below if is_trainer(words(pid))]

    def freeze(self, worker: Worker, *, whole: bool) -> None:
        """Stop the worker, or its machine: all that it started as well."""
        if worker.process is None:
            return
        worker.frozen = [worker.process.pid, *(descendants(worker.process.pid) if whole else [])]
        for pid in worker.frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self, worker: Worker) -> None:
        """Let everything of it go on."""
        for pid in worker.frozen:
            with suppress(OSError):
                if b"tunewright" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGCONT)
        worker.frozen = []

    def close(self) -> None:
        """End everything; nothing of it is left."""
        roots = [worker.process.pid for worker in self.workers if worker.process]
        roots += [self.server.pid] if self.server else []
        below = [pid for root in roots for pid in descendants(root)]
        for worker in self.workers:
            self.thaw(worker)
            self.kill_worker(worker)
            worker.tap.close()
        self.clients.close()
        self.kill_server()
        for pid in below:
            kill_if_ours(pid)
        self.service.database.close()
        if self.database:
            self.database.close()

    def _start(self, log: str, given: list[Any], **environment: str) -> subprocess.Popen[bytes]:
        if self._light:
            environment |= {
                "PYTHONPATH": os.pathsep.join([str(LIGHT), str(LIGHT.parent.parent)]),
                "LIGHT_STEP_SECONDS": str(self._light),
            }
        environment |= {"PYTHONUNBUFFERED": "1", "TUNEWRIGHT_CACHE": str(self.folder / "cache")}
        with (self._logs / log).open("ab") as output:
            return subprocess.Popen(
                command_line(given),
                cwd=self.folder,
                env=child_environment(self.folder, environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def words(pid: int) -> list[bytes]:
    """The command line of a process; empty for one that is gone or is not reaped yet."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def is_trainer(command: list[bytes]) -> bool:
    """Whether this is `tunewright train` or `data check` itself, not the leash that holds it."""
    return command[1:3] == [b"-m", b"tunewright.cli.main"]


class TrainerWatch:
    """Notes from when to when each training process was there, as the machine shows it."""

    PAUSE_SECONDS = 0.15

    def __init__(self, folder: Path, note: Note) -> None:
        self._folder, self._note = folder, note
        self._seen: dict[int, tuple[float, str, str]] = {}
        self._others: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and note those that still are."""
        self._stop.set()
        self._thread.join()
        self._end(set(self._seen))

    def _watch(self) -> None:
        while not self._stop.wait(self.PAUSE_SECONDS):
            there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
            self._others &= there
            for pid in there - self._others - self._seen.keys():
                self._look(pid)
            self._end({pid for pid in self._seen if pid not in there or not any(words(pid))})

    def _look(self, pid: int) -> None:
        command = words(pid)
        # A process that was forked and has not become another one yet looks like its parent.
        if command[1:4] == [b"-m", b"tunewright.cli.main", b"train"]:
            with suppress(OSError):
                place = Path(os.readlink(f"/proc/{pid}/cwd"))
                if place.is_relative_to(self._folder):
                    worker = place.parent.name.partition("-")[0]
                    self._seen[pid] = (time.time(), place.name, worker)
                    return
        if command and not any(b"tunewright" in word for word in command):
            self._others.add(pid)

    def _end(self, pids: set[int]) -> None:
        for pid in pids:
            start, job, worker = self._seen.pop(pid)
            self._note("trainer", start=start, end=time.time(), job=job, worker=worker, pid=pid)
