"""OpenAI's published schemas of the answers that we give too."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

FILE = Path(__file__).parent / "service" / "assets" / "openai_responses.json"
OUR_STATUSES = ("pausing", "paused")
"""Statuses of a job that OpenAI's paths for pause and resume need, and its schema leaves out."""


def faults(schema: str, value: Any) -> list[str]:
    """Where a value is not what OpenAI's schema of this name says; empty when it is."""
    return [f"{error.instance_path}: {error.message}" for error in _validator(schema).iter_errors(value)]


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    components = json.loads(FILE.read_text())["components"]
    components["schemas"]["FineTuningJob"]["properties"]["status"]["enum"] += OUR_STATUSES
    components = _with_nulls(components)
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": components}
    )


def _with_nulls(schema: Any) -> Any:
    """`nullable`, which OpenAI's document has beside the null of JSON Schema, in the words of the latter."""
    if isinstance(schema, list):
        return [_with_nulls(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _with_nulls(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") is True else found
