"""Which format a file has, from the keys of its first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunewright.data.formats.format import Format
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError

_FALLBACK = "text"


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
        hint=_hint(rows[0]),
        code="data.unknown-format",
    )


def _hint(row: RawRow) -> str:
    if len(row.fields) == 1 and isinstance(value := next(iter(row.fields.values())), list) and value:
        return f"the rows seem to lie inside `{next(iter(row.fields))}`: store that list alone"
    return "map other names with `columns`, such as columns: {instruction: question, output: answer}"
