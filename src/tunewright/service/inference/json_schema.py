"""JSON schemas of callers, before they become grammars: what cannot be kept to is refused by name.

The rest comes out without what says nothing about the answer. Unknown keywords and formats are left out too,
as JSON Schema has it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast
from urllib.parse import unquote

from tunewright.service.faults import bad_value

MAX_DEPTH = 40
MAX_VALUES = 20_000
MAX_TEXT = 200_000
MAX_MULTIPLE = 10_000
"""A multiple is told by a state for each remainder."""
MAX_MULTIPLES = 1_000_000
"""Least common multiple of all of them."""
MAX_INTEGER = 2**63

BAD_SCHEMA = "invalid_json_schema"
UNSUPPORTED = frozenset(
    [
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "dependentRequired",
        "dependencies",
        "contains",
        "minContains",
        "maxContains",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$recursiveAnchor",
        "$anchor",
    ]
)
FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
)
OTHER_FORMATS = frozenset(
    [
        "idn-email",
        "idn-hostname",
        "iri",
        "iri-reference",
        "uri-reference",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    ]
)
TYPES = frozenset(("null", "boolean", "object", "array", "number", "integer", "string"))
_COUNTS = frozenset(["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"])
_BOUNDS = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
_LISTS = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_MIXERS = frozenset(("anyOf", "oneOf", "allOf", "$ref"))

Json = dict[str, Any]


def prepare_schema(schema: Any, param: str) -> Json:
    """The schema as a grammar takes it: an object that lists its properties has these only, unless it says
    otherwise, so that a model is not led to make some up. param: the field that it stands in. Raises ApiError
    400, which names the keyword."""
    reader = _Reader(param)
    found = reader.read(schema, "", 0)
    if found is False:
        reader.refuse("", "nothing is valid under 'false'")
    whole: Json = {} if found is True else found
    reader.check_references(whole)
    if not reader.is_mixed:
        for each in reader.objects:
            _close(each)
    if len(json.dumps(whole)) > MAX_TEXT:
        reader.refuse("", f"it may have {MAX_TEXT:,} characters at most")
    return whole


class _Reader:
    def __init__(self, param: str) -> None:
        self._param = param
        self._values = 0
        self._multiple = 1
        self._references: list[tuple[str, str]] = []
        self.objects: list[Json] = []
        # Whether schemas apply beside others, where a closed one would forbid what the others name.
        self.is_mixed = False

    def refuse(self, path: str, message: str) -> NoReturn:
        """Raise ApiError 400 for what stands at a path."""
        param = f"{self._param}.{path}" if path else self._param
        raise bad_value(f"The JSON schema cannot be used: {message}", param, BAD_SCHEMA)

    def read(self, schema: Any, path: str, depth: int) -> Any:
        """A schema in what it says about answers."""
        self._count(path, depth)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            self.refuse(path, f"expected an object, got {type(schema).__name__}")
        fields = cast(Json, schema)
        kept: Json = {}
        for name, value in fields.items():
            read = self._keyword(name, value, f"{path}.{name}".lstrip("."), depth)
            if read is not None:
                kept[name] = read[0]
        self._check_properties(kept, path)
        self._note(kept)
        return kept

    def check_references(self, root: Json) -> None:
        """Refuse references that lead nowhere."""
        for path, reference in self._references:
            if not (reference == "#" or reference.startswith("#/")):
                self.refuse(
                    path, f"'$ref' may only lead into the schema itself ('#/…'), not to '{reference}'"
                )
            at: Any = root
            for part in reference.split("/")[1:]:
                name = unquote(part).replace("~1", "/").replace("~0", "~")
                items = cast(list[Any], at) if isinstance(at, list) else []
                inner = (
                    cast(Json, at)
                    if isinstance(at, dict)
                    else dict(zip(map(str, range(len(items))), items, strict=True))
                )
                if name not in inner:
                    self.refuse(path, f"'$ref' leads to '{reference}', where no schema is")
                at = inner[name]

    def _keyword(self, name: str, value: Any, path: str, depth: int) -> tuple[Any] | None:
        """What a keyword says, in a tuple; None for one that says nothing."""
        if name in UNSUPPORTED or (name == "uniqueItems" and value is not False):
            self.refuse(path, f"'{name}' cannot be kept to on this server; leave it out")
        if name == "$ref":
            self._references.append((path, self._text(name, value, path)))
            return (value,)
        if name in _LISTS or (name == "items" and isinstance(value, list)):
            items = self._list(name, value, path)
            return ([self.read(each, f"{path}.{place}", depth + 1) for place, each in enumerate(items)],)
        if name in _MAPS:
            pairs = self._map(name, value, path).items()
            return ({key: self.read(each, f"{path}.{key}", depth + 1) for key, each in pairs},)
        if name in ("items", "additionalProperties", "additionalItems"):
            return (self.read(value, path, depth + 1),)
        check = _VALUES.get(name)
        return None if check is None else check(self, name, value, path)

    def check_count(self, name: str, value: Any, path: str) -> tuple[Any]:
        """A number of things."""
        if not _is_number(value) or value != int(value) or not 0 <= value < 2**31:
            self.refuse(path, f"'{name}' must be a whole number from 0")
        return (int(value),)

    def check_bound(self, name: str, value: Any, path: str) -> tuple[Any]:
        """A limit of numbers."""
        if not _is_number(value) or abs(value) >= MAX_INTEGER:
            self.refuse(path, f"'{name}' must be a number within 64 bits")
        return (value,)

    def check_multiple(self, name: str, value: Any, path: str) -> tuple[Any]:
        """A factor of numbers."""
        if not _is_number(value) or value <= 0:
            self.refuse(path, f"'{name}' must be a number above 0")
        digits = re.sub(r"e.*|\.|^0+", "", f"{value!r}".lower())
        # Several may come to apply to one number, which takes a state for each remainder of their product.
        self._multiple = math.lcm(self._multiple, int(digits or 1)) if digits else self._multiple
        if value > MAX_MULTIPLE or int(digits or 0) > MAX_MULTIPLE or self._multiple > MAX_MULTIPLES:
            self.refuse(
                path, f"'{name}' may have four digits at most, and all together a small common multiple"
            )
        return (value,)

    def check_type(self, name: str, value: Any, path: str) -> tuple[Any]:
        """A type or several."""
        types = cast(list[Any], value) if isinstance(value, list) else [value]
        if not types or not all(isinstance(each, str) and each in TYPES for each in types):
            self.refuse(path, f"'{name}' must be one or more of {', '.join(sorted(TYPES))}")
        return (types if len(types) > 1 else types[0],)

    def check_format(self, name: str, value: Any, path: str) -> tuple[Any] | None:
        """A format that is enforced; others say nothing."""
        if self._text(name, value, path) in OTHER_FORMATS:
            self.refuse(path, f"'{name}' '{value}' cannot be kept to on this server; leave it out")
        return (value,) if value in FORMATS else None

    def check_pattern(self, name: str, value: Any, path: str) -> tuple[Any]:
        """A regular expression."""
        text = self._text(name, value, path)
        if re.search(r"\(\?(?:=|!|<=|<!)", text):
            self.refuse(path, f"'{name}' may not look ahead or behind")
        if len(text) > 1000:
            self.refuse(path, f"'{name}' may have 1,000 characters at most")
        return (text,)

    def check_names(self, name: str, value: Any, path: str) -> tuple[Any]:
        """Names of properties."""
        names = self._list(name, value, path)
        if not all(isinstance(each, str) for each in names):
            self.refuse(path, f"'{name}' must be a list of names")
        return (names,)

    def check_enum(self, name: str, value: Any, path: str) -> tuple[Any]:
        """Values to choose from."""
        items = self._list(name, value, path)
        if not items:
            self.refuse(path, f"'{name}' must have a value at least")
        for each in items:
            self.check_value(name, each, path)
        return (items,)

    def check_value(self, name: str, value: Any, path: str) -> tuple[Any]:
        """Any JSON value."""
        waiting: list[tuple[Any, int]] = [(value, 0)]
        while waiting:
            each, depth = waiting.pop()
            self._count(path, depth)
            if isinstance(each, float) and not math.isfinite(each):
                self.refuse(path, f"'{name}' has a number that JSON does not have")
            inner = cast(Json, each).values() if isinstance(each, dict) else each
            if isinstance(each, dict | list):
                waiting += [(one, depth + 1) for one in cast(list[Any], inner)]
        return (value,)

    def _check_properties(self, kept: Json, path: str) -> None:
        free = kept.get("minProperties", 0) - len(set(kept.get("required", ())))
        if free > 1:
            # A model may write the same one twice.
            self.refuse(
                f"{path}.minProperties".lstrip("."),
                "'minProperties' may ask for one more than 'required' names; name those that must be there",
            )

    def _note(self, kept: Json) -> None:
        mixers = _MIXERS & kept.keys()
        others = kept.keys() - {"$defs", "definitions", "$schema"}
        if (mixers and len(others) > 1) or len(kept.get("allOf", ())) > 1:
            self.is_mixed = True
        if "properties" in kept:
            self.objects.append(kept)

    def _count(self, path: str, depth: int) -> None:
        self._values += 1
        if depth > MAX_DEPTH or self._values > MAX_VALUES:
            self.refuse(
                path, f"it may be {MAX_DEPTH} levels deep at most and have {MAX_VALUES:,} values at most"
            )

    def _text(self, name: str, value: Any, path: str) -> str:
        if not isinstance(value, str):
            self.refuse(path, f"'{name}' must be a text")
        return value

    def _list(self, name: str, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            self.refuse(path, f"'{name}' must be a list")
        return cast(list[Any], value)

    def _map(self, name: str, value: Any, path: str) -> Json:
        if not isinstance(value, dict):
            self.refuse(path, f"'{name}' must be an object")
        return cast(Json, value)


_Check = Callable[[_Reader, str, Any, str], tuple[Any] | None]
_VALUES: Mapping[str, _Check] = {
    **dict.fromkeys(_COUNTS, _Reader.check_count),
    **dict.fromkeys(_BOUNDS, _Reader.check_bound),
    "multipleOf": _Reader.check_multiple,
    "type": _Reader.check_type,
    "format": _Reader.check_format,
    "pattern": _Reader.check_pattern,
    "required": _Reader.check_names,
    "enum": _Reader.check_enum,
    "const": _Reader.check_value,
    # Decides what `items` means.
    "$schema": lambda _reader, _name, value, _path: (value,) if isinstance(value, str) else None,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _close(fields: Json) -> None:
    """Let an object have the properties that it lists only."""
    listed: Json = fields["properties"]
    is_open = "additionalProperties" in fields or "patternProperties" in fields or not listed
    if is_open or not set(fields.get("required", ())) <= listed.keys():
        return
    if fields.get("minProperties", 0) <= len(listed):
        fields["additionalProperties"] = False
