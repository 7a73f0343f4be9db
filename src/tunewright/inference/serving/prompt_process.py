"""The process that reads prompts as the model server sees it: orders down one pipe, answers up the other."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tunewright.errors import ConfigError, DataError, EngineError, ModelError, TunewrightError
from tunewright.inference.serving.prompts import (
    NO_MEMORY,
    OPEN_BYTES,
    OPEN_SECONDS,
    READ_BYTES,
    READ_SECONDS,
)

WALL_SECONDS = 60.0
"""For what neither computes nor ends; beside other work three seconds of computing take a while."""
_READ_BYTES = 1 << 16
_CRASHES = {NO_MEMORY, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL}
"""How a process ends that gets no more memory, depending on whose code asked for it."""


class Refused(TunewrightError):
    """What the process says no to."""


class PromptProcess:
    """One process, started when it is needed. For one thread."""

    def __init__(self, wall_seconds: float = WALL_SECONDS) -> None:
        self._wall_seconds = wall_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while one runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process now, so that nobody waits for that."""
        if self._process is None:
            # One thread each: time and memory are counted for the process as a whole.
            environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tunewright.inference.serving.prompts"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                bufsize=0,
            )

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to an order.

        Raises ModelError (`model.costly-to-read`), ConfigError (`config.costly-schema`) and DataError
        (`data.costly-prompt`) when the process did not survive it, EngineError (`engine.reader-lost`) when
        somebody else ended it, and what the answer refuses.
        """
        self.start()
        process = self._process
        if process is None or process.stdin is None:
            raise AssertionError("start has started it")
        with suppress(BrokenPipeError):
            process.stdin.write((json.dumps(order) + "\n").encode())
        line = self._line(process)
        if line is None:
            raise self._ended(process, order["do"])
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            fault = answer["error"]
            raise Refused(fault.pop("what"), **fault)
        return answer

    def stop(self) -> None:
        """End the process; the next order starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait()

    def _line(self, process: subprocess.Popen[bytes]) -> bytes | None:
        """What the process says; None when it ended or takes too long."""
        if process.stdout is None:
            return None
        out = process.stdout.fileno()
        deadline = time.monotonic() + self._wall_seconds
        said = bytearray()
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                return None
            piece = os.read(out, _READ_BYTES)
            if not piece:
                return None
            said += piece
        return bytes(said)

    def _ended(self, process: subprocess.Popen[bytes], done: str) -> TunewrightError:
        """What is told of an order that the process did not survive, or did not finish in time."""
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            # It closes its pipe a moment before it is gone.
            code = process.wait(1.0)
        self.stop()
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            return EngineError(
                "the process that reads prompts was ended from outside", code="engine.reader-lost"
            )
        seconds, most = (OPEN_SECONDS, OPEN_BYTES) if done == "open" else (READ_SECONDS, READ_BYTES)
        limit = f"{most >> 20} MiB of memory" if code in _CRASHES else f"{seconds} s of computing"
        what = f"the chat template or the tokenizer of the model takes more than {limit}"
        if done == "open":
            return ModelError(f"{what} to open", code="model.costly-to-read")
        if done == "grammar":
            return ConfigError(
                f"the JSON schema takes more than {limit} to prepare; make it simpler",
                where="response_format",
                code="config.costly-schema",
            )
        return DataError(f"{what} for this prompt; shorten it", code="data.costly-prompt")
