"""Processes of `tunewright train` that can be killed: forked from a warm server, or fresh interpreters."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from processes import child_environment, command_line

# All that a run imports. Importing starts no thread, so that a fork of the server is a sound process.
WARM = (
    "transformers.models.llama.modeling_llama",
    "tunewright.cli.train",
    "tunewright.cli.run_lines",
    "tunewright.run.build",
    "tunewright.engines.torch.engine",
)
FRESH_IMPORT_SECONDS = 3.0


class Handle(Protocol):
    """What both kinds of process have in common. code: None while it runs, minus the signal if killed."""

    @property
    def pid(self) -> int: ...
    def code(self) -> int | None: ...
    def wait(self, seconds: float) -> int: ...


class Attempt:
    """One train process. started: time.monotonic(); started_at: the same as events write it; import_seconds:
    what it needs before it does anything."""

    def __init__(self, handle: Handle, log: Path, import_seconds: float) -> None:
        self.started = time.monotonic()
        self.started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.import_seconds = import_seconds
        self._handle = handle
        self._log = log

    @property
    def pid(self) -> int:
        return self._handle.pid

    def code(self) -> int | None:
        return self._handle.code()

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: finish the step, save and leave."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self.code() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float = 600) -> int:
        return self._handle.wait(seconds)

    def last_words(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-600:] if self._log.exists() else ""


def start_fresh(arguments: Sequence[str], scratch: Path) -> Attempt:
    """A new interpreter, as a user starts it."""
    scratch.mkdir(exist_ok=True)
    log = scratch / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_line(arguments),
            cwd=scratch,
            env=child_environment(scratch, {}),
            stdout=output,
            stderr=output,
        )
    return Attempt(_Fresh(process), log, FRESH_IMPORT_SECONDS)


def start_forked(arguments: Sequence[str], scratch: Path) -> Attempt:
    """A fork of a process that has imported everything and done nothing yet."""
    scratch.mkdir(exist_ok=True)
    log = scratch / "log.txt"
    log.write_bytes(b"")
    # The server takes its environment from here when it starts; libraries read it on import.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    process = context.Process(target=_train, args=(list(arguments), scratch))
    process.start()
    return Attempt(_Forked(process), log, 0.0)


def _train(arguments: list[str], scratch: Path) -> None:
    from tunewright.cli.main import run

    output = os.open(scratch / "log.txt", os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(child_environment(scratch, {}))
    os.chdir(scratch)
    sys.exit(run(arguments))


class _Fresh:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def code(self) -> int | None:
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)


class _Forked:
    def __init__(self, process: Any) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def code(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} still runs after {seconds:g} seconds")
        return self._process.exitcode
