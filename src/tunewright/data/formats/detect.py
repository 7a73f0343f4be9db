"""Which format a file has, from the keys of its first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from tunewright.data.formats.format import Format
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError

_FALLBACK = "text"
_OF_TURNS = {"messages": "messages", "conversations": "sharegpt"}


def choose_format(formats: Mapping[str, Format], rows: Sequence[RawRow]) -> str:
    """Name of the one format whose required fields rows of the sample have. Raises DataError.

    Rows that lack a field do not vote: they are bad rows, not another format. `text` counts only when no
    other format fits, since many chat files carry a rendered text beside their turns.
    """
    votes: dict[str, str] = {}
    for row in rows:
        for name in _formats_of(formats, row):
            votes.setdefault(name, str(row.source))
    chosen = [name for name in votes if name != _FALLBACK] or list(votes)
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise DataError(
            "the rows fit several formats",
            where=rows[0].source.path,
            got=" and ".join(f"{name} ({votes[name]})" for name in chosen),
            hint="name the one that you mean in `format`, or split the file",
            code="data.ambiguous-format",
        )
    raise _unknown(formats, rows)


def turns_field(value: object) -> str | None:
    """The field of a format under which such a list of turns would be read; None for another value."""
    first = cast("list[object]", value)[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict):
        return None
    return "messages" if "role" in first else "conversations" if "from" in first else None


def map_hint(field: str, column: str) -> str:
    """How to have a column read as a field."""
    return f"map them with `columns: {{{field}: {column}}}` (--column {field}={column})"


def seen_keys(rows: Sequence[RawRow]) -> list[str]:
    """All keys of the rows, in order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row.fields))


def _formats_of(formats: Mapping[str, Format], row: RawRow) -> list[str]:
    return [n for n, f in formats.items() if all(row.fields.get(key) is not None for key in f.required)]


def _unknown(formats: Mapping[str, Format], rows: Sequence[RawRow]) -> DataError:
    keys = seen_keys(rows)
    wanted = "; ".join(f"{name}: {', '.join(format_.required)}" for name, format_ in formats.items())
    return DataError(
        f"no known format in the first {len(rows)} rows" if len(rows) > 1 else "no known format in the row",
        where=rows[0].source.path,
        got=f"the keys {', '.join(keys)[:300]}" if keys else "no keys at all",
        expected=f"the keys of one format ({wanted})",
        hint=_hint(formats, rows[0]),
        code="data.unknown-format",
    )


def _hint(formats: Mapping[str, Format], row: RawRow) -> str:
    for key, value in row.fields.items():
        if field := turns_field(value):
            return f"`{key}` holds turns of the format {_OF_TURNS[field]}: {map_hint(field, key)}"
        if isinstance(value, list) and value and isinstance(first := cast("list[object]", value)[0], dict):
            fields = cast("dict[str, object]", first)
            if len(row.fields) == 1 and _formats_of(formats, RawRow(fields, row.source)):
                return f"the rows seem to lie inside `{key}`: store that list alone"
            if len(fields) == 2:
                return f'write each pair of `{key}` as two turns, {{"role": …, "content": …}}, in `messages`'
    return "map other names with `columns`, such as columns: {instruction: question, output: answer}"
