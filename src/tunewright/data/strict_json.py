"""JSON text to values without the leniency of the standard reader, and back without reshaping numbers.

Python's reader accepts NaN, lets the last of two equal keys win, passes lone surrogates that fail much
later, and answers deep nesting with a RecursionError. Here each is a JsonFault that says what and where.
"""

from __future__ import annotations

import json
import re
from math import isinf
from typing import NoReturn, cast

from tunewright.types import JsonValue

MAX_DEPTH = 100
MAX_CONTAINERS = 200_000
MAX_VALUES = 1_000_000
MAX_INTEGER_DIGITS = 100

_SUSPECT_ESCAPE = re.compile(r"\\u(?:d[89a-f]|0000)", re.IGNORECASE)
_MARK = re.compile(r'"[^"]*"?|[\[\]{},]')


class JsonFault(ValueError):
    """Text that is not the JSON we take. position: offset of a syntax fault in characters, else None."""

    def __init__(self, what: str, code: str, position: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.position = position


class ExactNumber(float):
    """A number that remembers its spelling where Python would print another one, such as 1e5 or 1.10."""

    __slots__ = ("text",)
    text: str


def parse_json(text: str) -> JsonValue:
    """The value of a JSON text. Memory stays within a small multiple of the text. Raises JsonFault."""
    _check_size(text)
    try:
        value: JsonValue = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        raise JsonFault(what, "data.broken-json", error.pos) from error
    if _SUSPECT_ESCAPE.search(text):
        check_text(value)
    return value


def dump_json(value: JsonValue) -> str:
    """JSON text of a parsed value: key order and the spelling of numbers as they were read."""
    if isinstance(value, ExactNumber):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dump_json(key)}: {dump_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(dump_json(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def split_array(text: str) -> list[str]:
    """The elements of a JSON array, each exactly as it is spelled in `text`. Raises JsonFault."""
    if not isinstance(parse_json(text), list):
        raise JsonFault("not a JSON array", "data.broken-json")
    at = _skip_space(text, text.index("[") + 1)
    elements: list[str] = []
    while text[at] != "]":
        end = _value_end(text, at)
        elements.append(text[at:end])
        at = _skip_space(text, end)
        at = _skip_space(text, at + 1) if text[at] == "," else at
    return elements


def split_object(text: str) -> dict[str, str]:
    """The values of a JSON object by key, each exactly as it is spelled in `text`. Raises JsonFault."""
    if not isinstance(parse_json(text), dict):
        raise JsonFault("not a JSON object", "data.broken-json")
    at = _skip_space(text, text.index("{") + 1)
    members: dict[str, str] = {}
    while text[at] != "}":
        key_end = _value_end(text, at)
        start = _skip_space(text, text.index(":", key_end) + 1)
        end = _value_end(text, start)
        members[json.loads(text[at:key_end])] = text[start:end]
        at = _skip_space(text, end)
        at = _skip_space(text, at + 1) if text[at] == "," else at
    return members


def check_text(value: object) -> None:
    """Raise JsonFault when a text inside `value` holds a NUL or half of a surrogate pair."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            _check_string(item)
        elif isinstance(item, dict):
            members = cast("dict[object, object]", item)
            waiting += [*members.keys(), *members.values()]
        elif isinstance(item, list):
            waiting += cast("list[object]", item)


def _check_string(text: str) -> None:
    if "\0" in text:
        raise JsonFault("a text holds a NUL character", "data.bad-text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise JsonFault(f"a text holds half of a surrogate pair ({half})", "data.bad-text") from error


def _check_size(text: str) -> None:
    """Refuse nesting and sizes whose values would take far more memory than their text, before parsing."""
    if text.count("[") + text.count("{") <= MAX_DEPTH and text.count(",") < MAX_VALUES:
        return
    depth = containers = values = 0
    for found in _MARK.finditer(text.replace("\\\\", "").replace('\\"', "")):
        mark = found.group()
        if mark in "[{":
            depth, containers = depth + 1, containers + 1
        elif mark in "]}":
            depth -= 1
        else:
            values += mark == ","
        if depth > MAX_DEPTH:
            raise JsonFault(f"nested deeper than {MAX_DEPTH} levels", "data.too-deep")
        if containers > MAX_CONTAINERS or values >= MAX_VALUES:
            raise JsonFault(
                f"more than {MAX_CONTAINERS:,} lists and objects or {MAX_VALUES:,} values in one row",
                "data.row-too-large",
            )


def _read_object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise JsonFault(f"key {twice[:40]!r} stands twice in one object", "data.duplicate-key")
    return fields


def _read_float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise JsonFault(f"number {text[:20]} is too large", "data.bad-number")
    if repr(value) == text:
        return value
    exact = ExactNumber(value)
    exact.text = text
    return exact


def _read_int(text: str) -> int | float:
    if len(text) > MAX_INTEGER_DIGITS:
        raise JsonFault(f"an integer of {len(text)} digits", "data.bad-number")
    return int(text) if text != "-0" else _read_float(text)


def _refuse_constant(name: str) -> NoReturn:
    raise JsonFault(f"{name} is not a JSON number", "data.bad-number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_read_object,
    parse_float=_read_float,
    parse_int=_read_int,
    parse_constant=_refuse_constant,
)
_PLAIN = json.JSONDecoder()


def _skip_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _value_end(text: str, at: int) -> int:
    end: int = _PLAIN.raw_decode(text, at)[1]
    return end
