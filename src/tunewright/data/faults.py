"""The faults of a source: the first ones whole, all of them counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunewright.errors import DataError

FAULTS_KEPT = 1000


@dataclass(slots=True)
class Faults:
    """Collects faults of rows in file order."""

    kept: list[DataError] = field(default_factory=list[DataError])
    count: int = 0

    def add(self, error: DataError) -> None:
        """Count a fault, and keep it if it is one of the first FAULTS_KEPT."""
        self.count += 1
        if len(self.kept) < FAULTS_KEPT:
            self.kept.append(detach(error))


def detach(error: DataError) -> DataError:
    """The error without its causes and traceback, which hold the text of the row (up to 16 MiB each)."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
