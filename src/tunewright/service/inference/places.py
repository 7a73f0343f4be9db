"""Places for chats in one API process, counted by project: one that fills its own leaves those of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tunewright.service.faults import ApiError
from tunewright.service.settings import Limits

RETRY_SECONDS = 5


class Places:
    """What each project has in the making. For the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self._most_calls, self._most_answers = limits.project_chats, limits.project_answers
        self._calls: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()

    @contextmanager
    def take(self, project: str, asks: Sequence[Mapping[str, Any]]) -> Generator[None]:
        """A place for each request, and for each of its answers, until the end of the block.

        Raises ApiError 429 when the project has too many; a single call that alone is too large is not.
        """
        answers = sum(int(ask.get("answers", 1)) for ask in asks)
        for what, most, has, more in (
            ("chats", self._most_calls, self._calls[project], len(asks)),
            ("answers", self._most_answers, self._answers[project], answers),
        ):
            if most and has and has + more > most:
                raise _too_many(what, most)
        self._calls[project] += len(asks)
        self._answers[project] += answers
        try:
            yield
        finally:
            self._calls[project] -= len(asks)
            self._answers[project] -= answers
            if not self._calls[project]:
                del self._calls[project], self._answers[project]

    def has_none(self, project: str) -> bool:
        """Whether a project has nothing in the making."""
        return not self._calls[project]


def _too_many(what: str, most: int) -> ApiError:
    return ApiError(
        429,
        f"This project has as many {what} in the making as it may, {most}, `n` of each counted. "
        "Wait for some to end, or ask for fewer",
        type="requests",
        code="too_many_chats",
        headers={"retry-after": str(RETRY_SECONDS)},
    )
