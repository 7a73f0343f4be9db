"""How often somebody may ask: a sliding window of a minute, exact to a second and never above the limit."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_SECONDS = 60
_SPAN = WINDOW_SECONDS + 1
"""Whole seconds that a span of 60 seconds can touch."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to somebody. wait_seconds: 0 when this request may go on, else when the next one may.
    reset_seconds: until everything is there again."""

    limit: int
    remaining: int
    reset_seconds: float
    wait_seconds: float = 0.0


@dataclass(slots=True)
class _Asked:
    """Requests of one name: seconds and how many came in each, the oldest first."""

    seconds: deque[list[int]] = field(default_factory=deque[list[int]])
    total: int = 0

    def forget_before(self, second: int) -> None:
        while self.seconds and self.seconds[0][0] < second:
            self.total -= self.seconds.popleft()[1]

    def add(self, second: int) -> None:
        if self.seconds and self.seconds[-1][0] == second:
            self.seconds[-1][1] += 1
        else:
            self.seconds.append([second, 1])
        self.total += 1


class RateLimiter:
    """Counts of this process, in memory. Several API processes each allow the limit.

    The library `limits` does this too; it starts a thread for every request that it counts, and lets nearly
    twice the limit through where two of its windows meet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[str, _Asked] = {}
        self._swept = 0

    def take(self, name: str, limit: int) -> Allowance:
        """Count a request of this name if it stays within `limit` a minute; refused ones are not counted."""
        now = self._clock()
        second = int(now)
        with self._lock:
            self._sweep(second)
            asked = self._asked.setdefault(name, _Asked())
            asked.forget_before(second - WINDOW_SECONDS)
            allowed = asked.total < limit
            if allowed:
                asked.add(second)
            oldest, newest = asked.seconds[0][0], asked.seconds[-1][0]
            return Allowance(
                limit,
                limit - asked.total,
                newest + _SPAN - now,
                0.0 if allowed else oldest + _SPAN - now,
            )

    def _sweep(self, second: int) -> None:
        """Once a minute forget who asked nothing since, so that names of a day do not pile up."""
        if second - self._swept < WINDOW_SECONDS:
            return
        self._swept = second
        quiet = [
            name
            for name, asked in self._asked.items()
            if not asked.seconds or asked.seconds[-1][0] < second - WINDOW_SECONDS
        ]
        for name in quiet:
            del self._asked[name]
