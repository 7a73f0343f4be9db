"""Send each event to the log and to every tracker."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from tunewright.errors import ConfigError
from tunewright.trackers.console import ConsoleTracker
from tunewright.trackers.jsonl import EventLog
from tunewright.trackers.protocol import Emit, TrackedRun, Tracker
from tunewright.trackers.wandb import WandbTracker

# Seconds; only a disk or a terminal that hangs takes so long.
LONGEST_EMIT = 5.0

Asked = Literal["auto"] | Sequence[str]
Build = Callable[[TrackedRun], Tracker]
TRACKERS: dict[str, Build] = {
    "console": lambda run: ConsoleTracker(run.total_steps, report_every=run.report_every),
    "wandb": WandbTracker,
}
# Trackers that need a library: `auto` leaves them out where it is not installed.
LIBRARIES = {"wandb": "wandb"}


def resolve_trackers(asked: Asked) -> tuple[str, ...]:
    """Names of the trackers to start. Raises ConfigError (`config.no-tracker`) for a missing library."""
    if asked == "auto":
        return tuple(name for name in TRACKERS if _is_installed(name))
    for name in asked:
        if not _is_installed(name):
            raise ConfigError(
                f"{LIBRARIES[name]} is not installed",
                where="track",
                got=name,
                hint=f"pip install 'tunewright[{name}]', take it out of track, or set track: auto",
                code="config.no-tracker",
            )
    return tuple(asked)


def _is_installed(name: str) -> bool:
    if name not in LIBRARIES:
        return True
    spec = find_spec(LIBRARIES[name])
    # A folder of that name, as wandb itself leaves behind, also has a spec, but no origin.
    return spec is not None and spec.origin is not None


class Fanout:
    """The log comes first and must work. A tracker that fails is reported once and left out from then on."""

    def __init__(self, log: EventLog, trackers: dict[str, Tracker]) -> None:
        self._log = log
        self._trackers = trackers
        self._lock = RLock()

    def add(self, name: str, build: Build, run: TrackedRun) -> None:
        """Start a tracker; one that does not start is reported and left out."""
        try:
            self._trackers[name] = build(run)
        except Exception as error:  # noqa: BLE001 - as in emit
            self.emit("warning", 0, message=f"tracker {name} did not start and is left out: {error}")

    def emit(self, type: str, step: int, **fields: Any) -> None:
        """Number, date and send one event, from any thread.

        Raises OSError when the log cannot be written, TimeoutError when another thread hangs in here.
        """
        if not self._lock.acquire(timeout=LONGEST_EMIT):
            raise TimeoutError("the event log is in use by a thread that does not come back")
        try:
            self._emit(type, step, fields)
        finally:
            self._lock.release()

    def _emit(self, type: str, step: int, fields: Mapping[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = self._log.emit({"type": type, "time": time, "step": step, **fields})
        failed: dict[str, Exception] = {}
        for name, tracker in self._trackers.items():
            try:
                tracker.emit(event)
            except Exception as error:  # noqa: BLE001 - a process edge: an outside service must not end a run
                failed[name] = error
        for name in failed:
            del self._trackers[name]
        # Only now, so that a second failure while reporting the first meets trackers that work.
        for name, error in failed.items():
            self.emit("warning", step, message=f"tracker {name} failed and is left out: {error}")

    def close(self) -> None:
        """Close the trackers, then the log, whatever a tracker does."""
        for tracker in self._trackers.values():
            with suppress(Exception):
                tracker.close()
        self._log.close()


@contextmanager
def open_trackers(asked: Asked, log: Path, run: TrackedRun) -> Generator[Emit]:
    """The function that emits an event, for as long as the body runs. Raises OSError and ConfigError."""
    names = resolve_trackers(asked)
    fanout = Fanout(EventLog(log), {})
    try:
        for name in names:
            fanout.add(name, TRACKERS[name], run)
        yield fanout.emit
    finally:
        fanout.close()
