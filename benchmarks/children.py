"""The measuring side of the processes that `measure` describes: start one, let it take a turn, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from measure import Report, Turn, read_report

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "src"


class Failed(Exception):
    """A measured process ended otherwise than planned; the text is the end of what it printed."""


class Child:
    """One measured process, ended after `seconds` at the latest. Use as a context manager."""

    def __init__(self, script: str, arguments: list[str], *, threads: int, seconds: float) -> None:
        command = [sys.executable, str(HERE / script), *arguments]
        self._log = Path(tempfile.mkstemp(suffix=".log")[1])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment(threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._timer = threading.Timer(seconds, self._process.kill)
        self._timer.start()
        self._seconds = seconds

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._log.unlink()

    def wait_until_ready(self) -> None:
        """The model is loaded and the first step could begin."""
        self._read()

    def play(self) -> Turn:
        """Let it take one turn while everything else waits."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(self._last_words()) from error
        return Turn(**json.loads(self._read()))

    def finish(self) -> Report:
        """Let it end, and read its report."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        line = self._read()
        try:
            return read_report(line)
        except ValueError as error:
            # Ended while it wrote.
            raise Failed(self._last_words()) from error

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        if code == -9:
            return f"ended after its {self._seconds:.0f} seconds, or by a lack of memory"
        return self._log.read_text(encoding="utf-8", errors="replace").strip()[-2000:] or f"exit code {code}"


def run_child(script: str, arguments: list[str], *, threads: int, seconds: float) -> Report:
    """A process that runs from start to end by itself. Raises Failed."""
    with Child(script, arguments, threads=threads, seconds=seconds) as child:
        return child.finish()


def write_model_apart(
    name: str, folder: Path, *, dtype: str, device: str, seconds: float | None = None
) -> None:
    """Random weights as a model folder, written by a process whose memory goes with it. Raises Failed, also
    when that takes longer than `seconds`."""
    command = [sys.executable, str(HERE / "workload.py"), name, str(folder), dtype, device]
    try:
        done = subprocess.run(
            command, env=environment(1), capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"its model was not written within {seconds:.0f} seconds") from error
    if done.returncode:
        raise Failed(done.stderr.strip()[-2000:])


def environment(threads: int) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    path = os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH"))))
    return {
        **plain,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin while they wait would count as work done.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "WANDB_DISABLED": "true",
    }
