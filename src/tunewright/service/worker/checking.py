"""The phase `validating_files`: every row read as training would read it, in a limited child process."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from tunewright.data.foreign import NO_MEMORY, VARIABLE, costly
from tunewright.errors import ExitCode
from tunewright.service.faults import BAD_FILE
from tunewright.service.schemas.lease import Finish, Lease
from tunewright.service.worker.child import ChildLimits, LeashedChild
from tunewright.service.worker.inputs import data_name
from tunewright.service.worker.keeper import LeaseKeeper
from tunewright.service.worker.leash import TIMED_OUT

MEMORY_BYTES = 16 * 2**30
FIRST_SECONDS, BYTES_PER_SECOND, MOST_SECONDS = 300.0, 100_000, 1800.0
"""How long a file may take: a small one that unpacks to gigabytes does not hold up a worker for long."""
POLL_SECONDS = 0.1
ENDED_BY_MODEL = {
    NO_MEMORY,
    *(128 + number for number in (signal.SIGPROF, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)),
}
"""How a check ends in foreign code: too much computing, or no memory for code that is not Python."""
PROBLEMS_TOLD = 10
_ERROR = re.compile(r"^error\[([a-z0-9.-]+)\]: (.*)", re.DOTALL | re.MULTILINE)


def check_files(lease: Lease, folder: Path, keeper: LeaseKeeper, stopping: Callable[[], bool]) -> Finish:
    """Check the files of a job; says `validated`, `stopped` or `failed`."""
    report: Mapping[str, Any] = {}
    for param, name, file in (
        ("validation_file", "validation", lease.validation),
        ("training_file", "training", lease.training),
    ):
        if file is None:
            continue
        limits = check_limits(file.bytes)
        child = LeashedChild(
            _arguments(lease, data_name(name, file)),
            folder=folder,
            lease_seconds=lease.lease_seconds,
            limits=limits,
            environment={VARIABLE: "1"},
        )
        code = _wait(child, keeper, stopping)
        if code is None:
            return Finish(outcome="stopped")
        if code == TIMED_OUT:
            message = f"The file takes longer than {limits.wall_seconds:.0f} s to check"
            # Another attempt would take as long.
            over = ExitCode.DATA_ERROR
            return Finish(outcome="failed", exit_code=over, code=BAD_FILE, message=message, param=param)
        if code in ENDED_BY_MODEL:
            error = costly()
            over = ExitCode.USER_ERROR
            message = f"{error.what}; the model of the job is at fault, not the file"
            return Finish(outcome="failed", exit_code=over, code=error.code, message=message, param="model")
        report = _read_report(folder)
        fault = _fault(code, report, folder, param)
        if fault is not None:
            return fault
    counted = ("train_rows", "rows_read", "rows_cut", "rows_dropped", "tokens", "trained_tokens", "longest")
    checked = {name: report.get(name, 0) for name in counted}
    formats = [source["format"] for source in report.get("sources", ())]
    return Finish(outcome="validated", exit_code=0, checked={**checked, "format": next(iter(formats), None)})


def check_limits(file_bytes: int) -> ChildLimits:
    """What the check of a file of this size may take."""
    seconds = min(FIRST_SECONDS + file_bytes / BYTES_PER_SECOND, MOST_SECONDS)
    return ChildLimits(wall_seconds=seconds, memory_bytes=MEMORY_BYTES)


def _arguments(lease: Lease, file: str) -> list[str]:
    data = lease.settings["data"]
    arguments = ["data", "check", file, "--json", "--model", lease.settings["model"]["name"]]
    arguments += ["--format", data["format"], "--overlong", data["overlong"]]
    for name in ("seq_len", "train_on", "thinking", "control_tokens"):
        if name in data:
            arguments += [f"--{name.replace('_', '-')}", str(data[name])]
    return arguments


def _wait(child: LeashedChild, keeper: LeaseKeeper, stopping: Callable[[], bool]) -> int | None:
    """The exit code; None when the check was ended on request."""
    keeper.attend(child)
    try:
        while (code := child.wait(POLL_SECONDS)) is None:
            if keeper.is_lost or keeper.wanted == "cancel" or stopping():
                return None
        return code
    finally:
        keeper.attend(None)
        child.close()


def _fault(code: int, report: Mapping[str, Any], folder: Path, param: str) -> Finish | None:
    if code == ExitCode.DONE:
        return None
    found_code, message = read_error(folder / "stderr.log")
    if code == ExitCode.DATA_ERROR:
        problems = _problems(report)
        message = "\n".join(problems) or message
        return Finish(outcome="failed", exit_code=code, code=BAD_FILE, message=message, param=param)
    about = "model" if (found_code or "").startswith("model.") else param
    return Finish(outcome="failed", exit_code=code, code=found_code, message=message, param=about)


def _problems(report: Mapping[str, Any]) -> list[str]:
    findings = cast("list[dict[str, Any]]", report.get("findings", []))
    errors = [finding for finding in findings if finding["severity"] == "error"]
    return [
        f"{error['what']}: {error['count']} ({', '.join(error['where'][:PROBLEMS_TOLD])}). {error['first']}"
        for error in errors[:PROBLEMS_TOLD]
    ]


def _read_report(folder: Path) -> Mapping[str, Any]:
    try:
        value: Any = json.loads((folder / "stdout.log").read_bytes())
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def read_error(log: Path) -> tuple[str | None, str]:
    """Code and message of the error that a command of ours told last; without one, the end of its output."""
    text = log.read_text(encoding="utf-8", errors="replace")[-20_000:]
    found = list(_ERROR.finditer(text))
    if found:
        message = found[-1][2].partition("\nhint:")[0].strip()
        return found[-1][1], message.replace(f"{log.parent.resolve()}/", "")
    return None, "The command ended without a message"
