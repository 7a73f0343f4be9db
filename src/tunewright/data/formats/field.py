"""A value inside a row together with its place, so that every fault can name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tunewright.errors import DataError
from tunewright.types import JsonValue, SourceRef


@dataclass(frozen=True, slots=True)
class Field:
    """A value of a row. name: its path, such as `messages[2].content`, empty for the row itself.

    None and an absent key are the same everywhere. columnar: see RawRow.
    """

    value: object
    name: str
    source: SourceRef
    columnar: bool = False

    @property
    def is_absent(self) -> bool:
        """Whether the key is missing or null."""
        return self.value is None

    @property
    def is_object(self) -> bool:
        """Whether the value has keys."""
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        """Whether the value has elements."""
        return isinstance(self.value, list)

    def child(self, key: str) -> Field:
        """The value at `key` of an object."""
        if not self.is_object:
            raise self.wrong_type("an object")
        members = cast("dict[str, object]", self.value)
        return Field(members.get(key), f"{self.name}.{key}" if self.name else key, self.source, self.columnar)

    def items(self) -> list[Field]:
        """The elements of a list."""
        if not self.is_list:
            raise self.wrong_type("a list")
        elements = cast("list[object]", self.value)
        return [Field(v, f"{self.name}[{i}]", self.source, self.columnar) for i, v in enumerate(elements)]

    def text(self) -> str:
        """The value as text."""
        if not isinstance(self.value, str):
            raise self.wrong_type("text")
        return self.value

    def optional_text(self) -> str | None:
        """The value as text, None when absent."""
        return None if self.is_absent else self.text()

    def replaced(self, value: JsonValue) -> Field:
        """Another value at the same place."""
        return Field(value, self.name, self.source)

    def wrong_type(self, expected: str) -> DataError:
        """The error for a value that is absent or of another type."""
        if self.is_absent:
            return self.error("is missing", code="data.missing-field", expected=expected)
        return self.error(
            "has the wrong type", code="data.wrong-type", got=describe(self.value), expected=expected
        )

    def error(
        self,
        what: str,
        *,
        code: str,
        got: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> DataError:
        """A DataError about this value."""
        subject = f"`{self.name}` " if self.name else "the row "
        return DataError(
            subject + what, where=str(self.source), got=got, expected=expected, hint=hint, code=code
        )


def describe(value: object) -> str:
    """A value in a few words for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}" + ("…" if len(value) > 40 else "")
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    return f"a value of type {type(value).__name__}"
