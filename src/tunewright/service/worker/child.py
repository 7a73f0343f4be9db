"""A command of ours as a child on a leash: the very `tunewright` that a person would call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunewright.service.child_environment import environment_of_child

LEASE_SHARE = 0.8
"""Share of a lease after which an unattended command is killed, well before anyone else may claim the job."""
GRACE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What a command may take as a whole; 0 means no limit."""

    wall_seconds: float = 0.0
    memory_bytes: int = 0


class LeashedChild:
    """A running command. Whoever holds this must call `beat` whenever the lease was renewed."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        lease_seconds: float,
        limits: ChildLimits = ChildLimits(),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        seconds = lease_seconds * LEASE_SHARE
        leash = [f"{seconds:.3f}", f"{GRACE_SECONDS}", f"{limits.wall_seconds}", str(limits.memory_bytes)]
        command = [sys.executable, "-m", "tunewright.service.worker.leash", *leash]
        command += [sys.executable, "-m", "tunewright.cli.main", *arguments]
        with (folder / "stdout.log").open("wb") as out, (folder / "stderr.log").open("wb") as err:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment_of_child(NO_COLOR="1", PYTHONUNBUFFERED="1", **(environment or {})),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def beat(self) -> None:
        """Let the command run for another lease."""
        self._say(b".")

    def stop(self) -> None:
        """Ask the command to save and end; after GRACE_SECONDS it is killed."""
        self._say(b"s")

    def kill(self) -> None:
        """End the command at once."""
        self._say(b"k")

    def poll(self) -> int | None:
        """Its exit code once it has ended; 128 and a number for a signal."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """As poll, after waiting for the end."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def close(self) -> None:
        """End the command if it still runs, and wait for that."""
        if self._process.poll() is None:
            self.kill()
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.wait()

    def _say(self, word: bytes) -> None:
        pipe = self._process.stdin
        # A leash that has ended hears nothing, and need not.
        with suppress(OSError, ValueError):
            if pipe:
                pipe.write(word)
                pipe.flush()
