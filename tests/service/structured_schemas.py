"""Fifty schemas of the kinds of the JSON-Schema test suite."""

from __future__ import annotations

from typing import Any

_STEP = {"type": "object", "properties": {"do": {"type": "string", "maxLength": 20}}, "required": ["do"]}
_NODE: Any = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}
_SHAPES: Any = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, size: {"type": "number"}},
            "required": ["kind", size],
            "additionalProperties": False,
        }
        for kind, size in (("circle", "radius"), ("square", "side"))
    ]
}


def _object(properties: Any, **more: Any) -> Any:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


SCHEMAS: list[Any] = [
    _object({"name": {"type": "string"}, "age": {"type": "integer"}}),
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}},
    {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["other"]},
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
    {"type": "object", "minProperties": 1, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
    {"properties": {"foo": {"type": "integer"}}, "type": ["object", "null"]},
    {},
    True,
    {"enum": [1, "two", None, True, [3], {"four": 4}]},
    {"enum": ["é", "日本", "🎈", 'quote"', "back\\slash", "line\n"]},
    {"const": {"a": [1, {"b": None}], "ü": "ö"}},
    {"const": "only"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["integer", "string"]},
    {"type": "integer"},
    {"type": "integer", "minimum": -5, "maximum": 17},
    {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 12},
    {"type": "number", "minimum": 0.5, "maximum": 1.25},
    {"type": "number", "exclusiveMinimum": -1, "maximum": 1000},
    {"type": "integer", "multipleOf": 7},
    {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 10},
    {"type": "string"},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]+$"},
    {"type": "string", "pattern": "b+", "maxLength": 8},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "email"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "time", "description": "a custom text", "x-own": 1},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"enum": ["a", "b"]}},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "boolean"}, "maxItems": 3},
    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}, "maxItems": 3},
    _object({"a": _object({"b": _object({"c": {"type": "array", "items": _STEP, "maxItems": 2}})})}),
    {"anyOf": [{"type": "integer"}, _object({"x": {"type": "string", "maxLength": 9}}), {"type": "null"}]},
    _SHAPES,
    {"allOf": [_STEP, {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    _NODE,
    {"$ref": "#/definitions/a", "definitions": {"a": {"type": "array", "items": {"$ref": "#/definitions/b"}},
     "b": {"enum": [True, False]}}},
    _object({"größe": {"type": "number"}, "名前": {"type": "string", "maxLength": 4}, 'a"b': {"const": "x"}}),
    _object({"yes": True, "list": {"type": "array", "items": True, "maxItems": 1}}),
]  # fmt: skip
