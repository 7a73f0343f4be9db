"""How a process ends: one clean message and an exit code, whatever happened inside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tunewright.cli.edge import exit_code_of
from tunewright.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EngineOutOfMemory,
    ExitCode,
    ModelError,
    RunError,
)


def failing(error: BaseException):
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong", hint="right"), ExitCode.USER_ERROR),
        (ModelError("wrong"), ExitCode.USER_ERROR),
        (CheckpointError("wrong"), ExitCode.USER_ERROR),
        (RunError("wrong"), ExitCode.USER_ERROR),
        (DataError("wrong"), ExitCode.DATA_ERROR),
        (EngineOutOfMemory("wrong"), ExitCode.OUT_OF_MEMORY),
    ],
)
def test_a_known_error_is_a_message_and_its_code(error, code, capsys):
    assert exit_code_of(failing(error)) == code
    hint = "hint: right\n" if error.hint else ""
    assert capsys.readouterr().err == f"error[{error.code}]: wrong\n{hint}"


def test_what_no_one_foresaw_leaves_its_traceback_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exit_code_of(failing(KeyError("lost\nline"))) == ExitCode.INTERNAL
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "internal error: KeyError: 'lost\\nline'"
    path = Path(re.search(r"the traceback is in (\S+)$", hint)[1])
    assert path.parent == tmp_path
    assert "KeyError" in path.read_text()
    assert "Traceback" in path.read_text()


def test_a_traceback_is_not_lost_when_it_cannot_be_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert exit_code_of(failing(AssertionError())) == ExitCode.INTERNAL
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "internal error: AssertionError\n" in err


def test_no_memory_is_no_internal_error(capsys):
    assert exit_code_of(failing(MemoryError())) == ExitCode.OUT_OF_MEMORY
    assert "no memory left" in capsys.readouterr().err


def test_a_command_may_return_its_code():
    assert exit_code_of(lambda: int(ExitCode.PREEMPTED)) == 5


def python(code: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_ctrl_c_is_one_line_and_130():
    process = python(
        "import os, signal, sys\n"
        "from tunewright.cli.edge import exit_code_of\n"
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def run(): os.kill(os.getpid(), signal.SIGINT); signal.pause()\n"
        "sys.exit(exit_code_of(run))"
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted\n"


@pytest.mark.parametrize("length", [10, 10**6], ids=["buffered", "written at once"])
def test_a_reader_that_goes_away_is_no_error(length):
    process = python(
        "import sys; from tunewright.cli.edge import exit_code_of\n"
        f"sys.exit(exit_code_of(lambda: sys.stdin.read() and print('x' * {length}) or 0))",
        stdin=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write("go")
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--version"], 0),
        (["config", "check", "missing.yaml"], 1),
        (["config", "check"], 2),
        (["train", "missing.yaml"], 1),
    ],
)
def test_the_process_ends_with_the_code(args, code, tmp_path):
    command = [sys.executable, "-m", "tunewright.cli.main", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_only_in_a_terminal_without_no_color(no_color, coloured, tmp_path):
    reader, writer = os.openpty()
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
    command = [sys.executable, "-m", "tunewright.cli.main", "config", "check", "missing.yaml"]
    subprocess.run(command, stderr=writer, timeout=60, cwd=tmp_path, env=env, check=False)
    os.close(writer)
    text = os.read(reader, 10_000).decode()
    os.close(reader)
    assert ("\033[" in text) is coloured
    assert "missing.yaml: no such file" in text
