"""The API reference is about the API that is there: its examples have the fields of the schemas, its tables
the words and codes of the program."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "docs"))

from api_reference import openapi, operations, read_examples  # noqa: E402
from api_tables import MESSAGES, REFUSALS, WORKERS_ONLY, refusal_codes  # noqa: E402

EXAMPLES = read_examples()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi()


def test_every_call_has_an_example(document: dict[str, Any]) -> None:
    calls = {f"{method} {path}" for method, path, _ in operations(document)}
    assert calls == EXAMPLES.keys(), "record them: python docs/record_api.py, then make docs"


def test_the_examples_have_the_fields_of_the_schemas(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        schema = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema")
        for example in EXAMPLES[f"{method} {path}"]:
            if schema and example["status"] == 200 and not isinstance(example["answer"], str):
                assert_fields(document, schema, example["answer"], f"{method} {path}")


def assert_fields(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    """An object has what its schema requires and nothing else, at every depth."""
    schemas = [found for found in (schema, *schema.get("anyOf", ())) if "$ref" in found]
    if isinstance(value, dict) and schemas:
        found = document["components"]["schemas"][schemas[0]["$ref"].rpartition("/")[2]]
        assert set(found["required"]) <= value.keys() <= found["properties"].keys(), where
        for name, item in value.items():
            assert_fields(document, found["properties"][name], item, f"{where} {name}")
    if isinstance(value, list) and "items" in schema:
        for item in value:
            assert_fields(document, schema["items"], item, where)


def test_another_field_in_an_example_is_seen(document: dict[str, Any]) -> None:
    job = EXAMPLES["GET /v1/fine_tuning/jobs/{job_id}"][0]["answer"]
    schema = {"$ref": "#/components/schemas/Job"}
    assert_fields(document, schema, job, "")
    for wrong in ({**job, "color": "red"}, {key: value for key, value in job.items() if key != "seed"}):
        with pytest.raises(AssertionError):
            assert_fields(document, schema, wrong, "")


def test_every_code_of_a_refusal_is_explained() -> None:
    assert refusal_codes().keys() - WORKERS_ONLY == REFUSALS.keys()


def test_the_messages_on_the_page_are_those_of_the_sources() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src/tunewright/service").rglob("*.py")
    )
    for message, _, _ in MESSAGES:
        parts = re.split(r"\b(?:ID|N|X|NAME|REASON)\b", message)
        longest = max(parts, key=len).strip(" :/=,")
        assert longest in sources, message


def test_recorded_events_are_on_the_page() -> None:
    words = [re.sub(r"\\?\b(ID|N|X|NAME|REASON)\b", ".+", re.escape(message)) for message, _, _ in MESSAGES]
    known = re.compile("|".join(words))
    events = EXAMPLES["GET /v1/fine_tuning/jobs/{job_id}/events"][0]["answer"]["data"]
    assert events
    for event in events:
        assert known.match(event["message"]), event["message"]
