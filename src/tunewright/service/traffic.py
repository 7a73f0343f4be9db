"""What one server remembers of its callers: how much they asked, and when they used their keys."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tunewright.service.db.database import Connection
from tunewright.service.db.keys import note_uses
from tunewright.service.faults import ApiError
from tunewright.service.meters import Meters
from tunewright.service.rates import Allowance, RateLimiter
from tunewright.service.records import KeyRecord

UNLIMITED_SCOPES = frozenset({"worker"})
"""Workers are the operator's own, and what they send grows with the jobs."""


class KeyUses:
    """When keys were last used. Kept here and stored now and then: a write for each request would cost more
    than the request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: dict[str, float] = {}

    def note(self, key: KeyRecord) -> None:
        """The key was used now."""
        with self._lock:
            self._uses[key.id] = time.time()

    def store(self, connection: Connection) -> None:
        """Write what was noted since the last time."""
        with self._lock:
            uses, self._uses = self._uses, {}
        note_uses(connection, uses)


class OpenStreams:
    """How many answers without an end each key has open. Each looks into the database every second."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def check(self, key: KeyRecord, most: int) -> None:
        """Raise ApiError 429 when a key has as many open as it may; 0 means any number."""
        if most and self._open[key.id] >= most:
            raise ApiError(
                429,
                f"This key has {most} streams of events open, which is its limit. Close one first",
                type="requests",
                code="rate_limit_exceeded",
                headers={"retry-after": "5"},
            )

    async def count(self, key: KeyRecord, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same lines, counted as open from the first to the last, or until the caller hangs up."""
        self._open[key.id] += 1
        try:
            async for line in lines:
                yield line
        finally:
            self._open[key.id] -= 1
            if not self._open[key.id]:
                del self._open[key.id]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one server process. Nothing of it survives a restart but what is in the database."""

    rates: RateLimiter = field(default_factory=RateLimiter)
    uses: KeyUses = field(default_factory=KeyUses)
    meters: Meters = field(default_factory=Meters)
    streams: OpenStreams = field(default_factory=OpenStreams)

    def admit(self, key: KeyRecord, requests_per_minute: int) -> Allowance | None:
        """Count a request of this key; None where nothing is limited.

        requests_per_minute: of keys that have no limit of their own; 0 means none.
        """
        self.uses.note(key)
        limit = requests_per_minute if key.requests_per_minute is None else key.requests_per_minute
        if not limit or UNLIMITED_SCOPES.intersection(key.scopes):
            return None
        return self.rates.take(key.id, limit)


def too_many_requests(allowance: Allowance) -> ApiError:
    """429 with the time after which the client tries again by itself."""
    wait = allowance.wait_seconds
    return ApiError(
        429,
        f"Rate limit reached: this key may send {allowance.limit} requests a minute. "
        f"Try again in {wait:.1f} s",
        type="requests",
        code="rate_limit_exceeded",
        headers={"retry-after": str(int(wait) + 1), "retry-after-ms": str(int(wait * 1000) + 1)},
    )


def rate_headers(allowance: Allowance) -> dict[str, str]:
    """What every answer to a limited key says about its limit, in OpenAI's names."""
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": f"{allowance.reset_seconds:.3f}s",
    }
