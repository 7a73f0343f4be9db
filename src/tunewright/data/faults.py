"""The faults of a source: the first ones whole, all of them counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunewright.data.bad_rows import is_row_fault
from tunewright.errors import DataError

FAULTS_KEPT = 1000
_PARTS = ("what", "where", "got", "expected", "hint", "code")


@dataclass(slots=True)
class Faults:
    """Collects faults of rows in file order."""

    kept: list[DataError] = field(default_factory=list[DataError])
    count: int = 0

    def add(self, error: DataError) -> None:
        """Count a fault, and keep it if it is one of the first FAULTS_KEPT or ends its file."""
        self.count += 1
        if len(self.kept) < FAULTS_KEPT or not is_row_fault(error):
            self.kept.append(detach(error))

    def extend(self, kept: Sequence[DataError], count: int) -> None:
        """Count `count` faults that another process found, `kept` the first of them."""
        self.count += count
        room = max(FAULTS_KEPT - len(self.kept), 0)
        self.kept += [*kept[:room], *(error for error in kept[room:] if not is_row_fault(error))]


def detach(error: DataError) -> DataError:
    """The error without its causes and traceback, which hold the text of the row (up to 16 MiB each)."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def fault_to_json(error: DataError) -> dict[str, str | None]:
    """The parts of an error as texts."""
    found = {name: getattr(error, name) for name in _PARTS}
    return {name: None if value is None else str(value) for name, value in found.items()}


def fault_from_json(parts: Mapping[str, str | None]) -> DataError:
    """The error that fault_to_json took apart."""
    return DataError(
        parts["what"] or "",
        where=parts["where"],
        got=parts["got"],
        expected=parts["expected"],
        hint=parts["hint"],
        code=parts["code"],
    )
