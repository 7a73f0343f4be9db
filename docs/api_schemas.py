"""JSON schemas as tables for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

_LINK = re.compile(r"\[\w+\]\(#\w+\)")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def kind_of(schema: dict[str, Any]) -> str:
    """What a value may be, in words: `integer 1 to 100`, `` `asc` or `desc` ``, a list of something."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    for joined in ("anyOf", "oneOf"):
        if joined in schema:
            return " or ".join(dict.fromkeys(kind_of(item) for item in schema[joined]))
    if "allOf" in schema:
        return kind_of(schema["allOf"][0])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{value}`" for value in values)
    kind = schema.get("type")
    if kind == "array":
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"list of {kind_of(schema.get('items', {}))}{most}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind_of(schema['additionalProperties'])}"
    if schema.get("format") == "binary":
        return "bytes"
    return f"{kind or 'anything'}{_bounds(schema)}"


def _link(name: str) -> str:
    if name.startswith("Page_"):
        return f"a page of {_link(name.removeprefix('Page_').rstrip('_'))}"
    return f"[{name}](#{name.lower()})"


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" {_number(low)} to {_number(high)}"
    told = [
        f"{words} {_number(schema[name])}"
        for name, words in (
            ("minimum", "from"),
            ("maximum", "up to"),
            ("exclusiveMinimum", "above"),
            ("exclusiveMaximum", "below"),
        )
        if name in schema
    ]
    if "maxLength" in schema:
        told.append(f"of at most {schema['maxLength']} characters")
    if "pattern" in schema:
        told.append(f"like `{schema['pattern']}`")
    return "".join(f" {text}" for text in told)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def field_rows(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """The table of what a request may hold, objects inside it by their path."""
    rows = list(_fields(document, _resolve(document, schema), ""))
    yield from table(("field", "accepts", "default", ""), rows)


def _fields(document: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[Sequence[str]]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        # The hyperparameters may stand in two places, and have a table of their own.
        inner = None if name == "hyperparameters" else _inner(document, field)
        default = "required" if name in required else _default(field)
        kind = _LINK.sub("object", kind_of(field)) if inner else kind_of(field)
        yield f"`{prefix}{name}`", kind.removesuffix(" or null"), default, field.get("description", "")
        if inner:
            yield from _fields(document, inner, f"{prefix}{name}.")


def _inner(document: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """The object that a field holds, if it is one of ours."""
    for item in (field, *field.get("anyOf", ())):
        if "$ref" in item:
            found = _resolve(document, item)
            return found if "properties" in found else None
        if "$ref" in item.get("items", {}):
            return _inner(document, item["items"])
    return None


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def object_rows(document: dict[str, Any], name: str) -> Iterator[str]:
    """What an object is, and the table of its fields."""
    schema = document["components"]["schemas"][name]
    yield from (schema.get("description", ""), "")
    rows = [
        (f"`{field}`", kind_of(value), value.get("description", ""))
        for field, value in schema["properties"].items()
    ]
    yield from table(("field", "is", ""), rows)
