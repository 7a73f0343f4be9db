"""Tools and calls that a table library filled with the keys of other rows."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from tunewright.data.formats import parse_row
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError
from tunewright.types import SourceRef

CITY = {"type": "string"}


def row(name: str, parameter: str, arguments: dict[str, object]) -> dict[str, object]:
    function = {"name": name, "parameters": {"type": "object", "properties": {parameter: CITY}}}
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        "tools": [{"type": "function", "function": function}],
    }


def parse(fields: dict[str, object]) -> object:
    return parse_row(RawRow(fields, SourceRef("a.jsonl", 7)), "messages")


def test_rows_that_went_through_a_table_are_refused() -> None:
    table = pa.Table.from_pylist(
        [row("weather", "city", {"city": "Oslo"}), row("time", "zone", {"zone": "CET"})]
    )
    for padded in table.to_pylist():
        with pytest.raises(DataError) as caught:
            parse(json.loads(json.dumps(padded)))
        assert caught.value.code == "data.null-keys"


def test_only_arguments_that_the_tool_does_not_have_are_padding() -> None:
    parse(row("weather", "city", {"city": None}))
    with pytest.raises(DataError, match="null for 'zone'"):
        parse(row("weather", "city", {"city": "Oslo", "zone": None}))
