"""The row formats. To add one: a file here with its parse function, a line in FORMATS, its name in the
schema's SourceConfig.format, and a section in docs/reference/formats.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunewright.data.formats.alpaca import parse_alpaca
from tunewright.data.formats.columns import check_columns, rename_columns
from tunewright.data.formats.detect import choose_format
from tunewright.data.formats.field import Field
from tunewright.data.formats.format import Format
from tunewright.data.formats.messages import parse_messages
from tunewright.data.formats.prompt_completion import parse_prompt_completion
from tunewright.data.formats.refused import check_supervised
from tunewright.data.formats.sharegpt import parse_sharegpt
from tunewright.data.formats.text import parse_text
from tunewright.data.raw_row import RawRow
from tunewright.types import Row

FORMATS: dict[str, Format] = {
    "alpaca": Format(("instruction", "output"), ("input", "system", "history"), parse_alpaca),
    "sharegpt": Format(("conversations",), ("system", "tools", "functions"), parse_sharegpt),
    "messages": Format(("messages",), ("system", "tools", "functions"), parse_messages),
    "prompt_completion": Format(
        ("prompt", "completion"), ("system", "tools", "functions"), parse_prompt_completion
    ),
    "text": Format(("text",), (), parse_text),
}


def resolve_format(requested: str, rows: Sequence[RawRow], columns: Mapping[str, str]) -> str:
    """The format of a source: the one requested, or for `auto` the one that `rows`, its first rows, have.

    Raises DataError for a column mapping that does not fit.
    """
    formats = FORMATS.values() if requested == "auto" else (FORMATS[requested],)
    check_columns(columns, formats, rows)
    return detect_format(rows, columns) if requested == "auto" else requested


def detect_format(rows: Sequence[RawRow], columns: Mapping[str, str] | None = None) -> str:
    """The format whose fields the first rows of a file have. Raises DataError naming the keys seen."""
    renamed = [rename_columns(row, columns or {}) for row in rows]
    for row in renamed:
        check_supervised(row.fields, str(row.source), (columns or {}).values())
    return choose_format(FORMATS, renamed)


def parse_row(raw: RawRow, format_: str, columns: Mapping[str, str] | None = None) -> Row:
    """The row in its internal form. Raises DataError that names the row, the field and what is wrong."""
    row = rename_columns(raw, columns or {})
    check_supervised(row.fields, str(row.source), (columns or {}).values())
    return FORMATS[format_].parse(Field(dict(row.fields), "", row.source, row.columnar))
