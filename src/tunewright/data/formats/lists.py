"""Lists inside a row: themselves, or as JSON text where the file can hold nothing else (CSV)."""

from __future__ import annotations

from tunewright.data.formats.field import Field
from tunewright.data.strict_json import JsonFault, parse_json


def read_list(field: Field) -> list[Field]:
    """The elements of a list or of the JSON text of a list."""
    if not isinstance(field.value, str):
        return field.items()
    try:
        value = parse_json(field.value)
    except JsonFault as fault:
        what = f"is text that is not a JSON list: {fault.what}"
        raise field.error(what, code="data.wrong-type", got=repr(field.value[:60])) from fault
    return field.replaced(value).items()
