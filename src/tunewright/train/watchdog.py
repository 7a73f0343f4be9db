"""Notice a run that hangs: no sign of life for too long ends in a call that never returns.

The thread that watches needs the interpreter now and then. Every wait that matters here lets it in: device
work, input and output, locks, other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Condition, Thread
from time import monotonic

# Step 1 is waited for while step 2 is being sent off, so both may meet compilers and cold caches.
SLOW_STEPS = 2


class Watchdog:
    """Context manager around training. on_stall gets the seconds of silence, on a thread of its own.

    first_seconds: patience until the first steps are through. later_seconds: between two beats after that.
    """

    def __init__(self, first_seconds: float, later_seconds: float, on_stall: Callable[[float], None]) -> None:
        self._first, self._later, self._on_stall = first_seconds, later_seconds, on_stall
        self._changed = Condition()
        self._steps = 0
        self._patience = first_seconds
        self._deadline = monotonic() + first_seconds
        self._resting = 0
        self._closed = False

    def step(self) -> None:
        """A step begins."""
        self._steps += 1
        self._patience = self._later if self._steps > SLOW_STEPS else self._first
        self.beat()

    def beat(self) -> None:
        """A sign of life inside a long piece of work, such as each batch of an evaluation."""
        self._deadline = monotonic() + self._patience

    @contextmanager
    def resting(self) -> Generator[None]:
        """Do not watch while the body runs: work of unknown length, such as merging a large model."""
        self._resting += 1
        try:
            yield
        finally:
            self.beat()
            self._resting -= 1

    def __enter__(self) -> Watchdog:
        self.beat()
        Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *unused: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                left = self._deadline - monotonic()
                if left <= 0 and not self._resting:
                    break
                # Beats do not wake this thread: it looks again when the deadline that it knows of has passed.
                self._changed.wait(min(max(left, self._later / 10), self._later))
            else:
                return
        self._on_stall(self._patience)
