"""Column mapping: rows with the names of the file turned into rows with the names of the format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tunewright.data.formats.detect import seen_keys
from tunewright.data.formats.format import Format
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError


def rename_columns(row: RawRow, columns: Mapping[str, str]) -> RawRow:
    """The row with each mapped column under its field name. Other columns keep theirs."""
    if not columns:
        return row
    taken = {*columns, *columns.values()}
    fields = {key: value for key, value in row.fields.items() if key not in taken}
    fields |= {field: row.fields.get(column) for field, column in columns.items()}
    return RawRow(fields, row.source, row.columnar)


def check_columns(columns: Mapping[str, str], formats: Iterable[Format], rows: Sequence[RawRow]) -> None:
    """Raise DataError for a field that no format in question has, or a column that no row has."""
    if not columns:
        return
    known = list(dict.fromkeys(field for format_ in formats for field in format_.fields))
    if unknown := [field for field in columns if field not in known]:
        raise DataError(
            f"`columns` names fields that the format does not have: {', '.join(unknown)}",
            where="data.train.columns",
            expected=f"fields of {', '.join(known)}",
            hint="the field of the format comes first: {instruction: question}",
            code="data.bad-columns",
        )
    seen = seen_keys(rows)
    if missing := [column for column in columns.values() if column not in seen]:
        raise DataError(
            f"`columns` names columns that the file does not have: {', '.join(missing)}",
            where=rows[0].source.path,
            got=f"the columns {', '.join(seen)[:300]}",
            code="data.bad-columns",
        )
