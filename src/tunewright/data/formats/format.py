"""What a row format is: the fields it takes and the function that reads a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunewright.data.formats.field import Field
from tunewright.types import Row


@dataclass(frozen=True, slots=True)
class Format:
    """A row format. A row has it when all `required` fields are there; other fields are left alone."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    parse: Callable[[Field], Row]

    @property
    def fields(self) -> tuple[str, ...]:
        """All field names that column mapping may use."""
        return (*self.required, *self.optional)
