"""What happens when a run hangs: write down where every thread stands, say so, and leave at once."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tunewright.errors import ExitCode, RunError
from tunewright.trackers.protocol import Emit


def stall_handler(folder: Path, emit: Emit, say: Callable[[str], None]) -> Callable[[float], None]:
    """For Watchdog's on_stall. Ends the process with exit code 6; nothing else can end a call that hangs."""

    def end(seconds: float) -> None:
        stacks = _write_stacks(folder / "logs")
        error = RunError(
            f"no sign of life for {seconds:g} seconds",
            where=str(folder),
            hint=f"the stacks of all threads are in {stacks}; go on with --resume; slow work needs more in "
            "guard.step_seconds",
            code="run.stalled",
        )
        say(f"error[{error.code}]: {error}")
        # The thread that hangs may hold the log, or the disk itself may be what hangs.
        with suppress(OSError, TimeoutError):
            emit("run_finished", 0, outcome="failed", code=error.code, message=error.what)
        os._exit(int(ExitCode.STALLED))

    return end


def _write_stacks(folder: Path) -> str:
    name = f"stall-{datetime.now().strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        folder.mkdir(exist_ok=True)
        with open(folder / name, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
    except OSError:
        faulthandler.dump_traceback(all_threads=True)
        return "the lines above"
    return str(folder / name)
