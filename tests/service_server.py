"""A real server for tests: in this process behind real HTTP, or as the command that an operator starts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from openai import DefaultHttpxClient, OpenAI

from processes import child_environment, command_line
from tunewright.service.app import build_app
from tunewright.service.context import Service
from tunewright.service.keys import create_key
from tunewright.service.server import open_service
from tunewright.service.settings import ServeSettings
from tunewright.service.wire import http_config

START_SECONDS = 60.0
"""Long, because the machine that runs the suite may be busy with something else."""
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_SERVING = re.compile(r"serving at (https?://\S+)/v1")


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at `url`. service: its database, blobs and settings, for making keys and looking
    behind the API. app: the one in this process."""

    url: str
    service: Service
    app: Any = None

    def key(self, *scopes: str, project: str = "default") -> str:
        """The secret of a new key; without scopes that of a user."""
        with self.service.database.write() as connection:
            made = create_key(
                connection,
                self.service.pepper,
                name="test",
                project=project,
                scopes=scopes or ("jobs",),
            )
        return made.secret

    def client(self, *, key: str | None = None, project: str = "default", **options: Any) -> OpenAI:
        """The official client with a key of its own. Close it, or use it in a `with`."""
        secret = key or self.key(project=project)
        # The client would read all certificates of the machine, for nothing, each time.
        http = DefaultHttpxClient(verify=_NO_CERTIFICATES)
        return OpenAI(base_url=f"{self.url}/v1", api_key=secret, http_client=http, **options)


@contextmanager
def serve_here(settings: ServeSettings) -> Generator[RunningServer]:
    """A server in a thread of this process, without workers, on a free port."""
    service = open_service(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        service = replace(service, settings=replace(settings, port=port))
        app = build_app(service)
        server = uvicorn.Server(http_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, "the server listens")
            yield RunningServer(f"http://127.0.0.1:{port}", service, app)
        finally:
            service.stopping.set()
            server.should_exit = True
            thread.join(timeout=30)
            service.database.close()


@contextmanager
def serve_as_process(
    folder: Path, *arguments: str | Path, database: str | None = None, **environment: str
) -> Generator[RunningServer]:
    """`tunewright serve` as a process of its own, with a worker unless `--workers 0` is given.

    It and everything that it started are gone afterwards.
    """
    home = folder / "home"
    given = ["serve", "--home", home, "--port", "0", *arguments]
    given += ["--database", database] if database else []
    with child(folder, *given, log="serve.log", **environment) as process:
        found: list[str] = []

        def is_serving() -> bool:
            text = (folder / "serve.log").read_text(encoding="utf-8")
            assert process.poll() is None, f"serve ended with {process.returncode}:\n{text}"
            found.extend(_SERVING.findall(text))
            return bool(found)

        wait_until(is_serving, "the server says that it serves")
        service = open_service(ServeSettings(home=home, database=database))
        try:
            yield RunningServer(found[0], service)
        finally:
            service.database.close()


@contextmanager
def child(
    folder: Path, *arguments: str | Path, log: str, **environment: str
) -> Generator[subprocess.Popen[bytes]]:
    """`tunewright ARGUMENTS` as a process whose output goes to `folder/log`. Asked to end at the end; killed,
    with all its descendants, when it does not."""
    with (folder / log).open("wb") as output:
        process = subprocess.Popen(
            command_line(arguments),
            cwd=folder,
            env=child_environment(folder, {"PYTHONUNBUFFERED": "1", **environment}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        below = descendants(process.pid)
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
        process.kill()
        process.wait()
        # Each of them leads a session of its own, so no signal to a group reaches them all.
        for pid in below:
            with suppress(ProcessLookupError):
                kill_if_ours(pid)


def server_pid(server: RunningServer) -> int:
    """The process of a server of `serve_as_process`."""
    home = str(server.service.settings.home).encode()
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"serve" in words and home in words:
                found.add(int(path.parent.name))
    # A child that it is just about to start looks like itself for a moment.
    [pid] = found - {below for each in found for below in descendants(each)}
    return pid


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, the nearest first."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
    return found[1:]


def kill_if_ours(pid: int) -> None:
    """Kill a process unless its number meanwhile names something that is not Tunewright's."""
    with suppress(OSError):
        if b"tunewright" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def wait_until(is_so: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    """What `is_so` returned once it was true. Fails with `what` when that takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)
    return found


def wait_for_status(client: OpenAI, job_id: str, *statuses: str, seconds: float = 180.0) -> Any:
    """The job once it has one of these statuses."""
    seen: list[str] = []

    def reached() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status not in seen:
            seen.append(job.status)
        over = job.status in ("failed", "succeeded", "cancelled") and job.status not in statuses
        assert not over, f"{job.status} instead of {statuses}: {job.error}"
        return job if job.status in statuses else None

    return wait_until(reached, f"{job_id} is {' or '.join(statuses)}; it was {seen}", seconds)


def chat_rows(count: int) -> list[dict[str, Any]]:
    """Rows in OpenAI's chat format."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {number} plus {number}?"},
                {"role": "assistant", "content": f"It is {2 * number}."},
            ]
        }
        for number in range(count)
    ]


def upload(client: OpenAI, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Any:
    """Upload rows as a training file."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.files.create(file=(name, data), purpose="fine-tune")
