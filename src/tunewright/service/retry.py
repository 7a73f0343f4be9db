"""Whether an attempt that ended badly is worth another one, decided by how its process ended.

The exit codes are those of docs/reference/errors.md. A signal ends a process with a negative code, or with
128 and its number where something stands between.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.errors import ExitCode

MOST_ATTEMPTS = 4
"""Attempts after which a job that keeps failing without its own fault is given up."""

TRANSIENT_CODES = frozenset(
    {
        "model.fetch",
        "model.offline",
        "run.locked",
        "run.disk-full",
        "checkpoint.disk-full",
        "service.transfer",
    }
)
"""User errors by exit code that pass by themselves."""

# Exit code → how many more attempts it is worth. What is not listed and not a kill is the job's own fault.
_RETRIES = {
    ExitCode.OUT_OF_MEMORY: 1,
    ExitCode.PREEMPTED: MOST_ATTEMPTS - 1,
    ExitCode.STALLED: MOST_ATTEMPTS - 1,
    ExitCode.INTERNAL: 1,
}
WORKER_LOST = "worker_lost"
_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """again: whether to queue the job once more, `delay_seconds` from now."""

    again: bool
    delay_seconds: float = 0.0


def judge(exit_code: int | None, code: str | None, failures: int) -> Verdict:
    """What becomes of a job whose attempt ended with `exit_code`; None when its worker was lost.

    code: the error code of the run's last event, if it wrote one. failures: attempts that failed before.
    """
    if failures < _retries(exit_code, code):
        if code == WORKER_LOST:
            # The lease that ran out was the wait.
            return Verdict(True)
        return Verdict(True, min(_FIRST_DELAY_SECONDS * 2**failures, _LONGEST_DELAY_SECONDS))
    return Verdict(False)


def _retries(exit_code: int | None, code: str | None) -> int:
    if exit_code is None or code in TRANSIENT_CODES or exit_code < 0 or exit_code >= 128:
        return MOST_ATTEMPTS - 1
    return _RETRIES.get(ExitCode(exit_code), 0) if exit_code in set(ExitCode) else MOST_ATTEMPTS - 1
