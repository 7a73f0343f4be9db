"""The API reference is about the API that is there: its examples have the fields of the schemas, its tables
the words and codes of the program."""

from __future__ import annotations

import ast
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
        longest = max(parts, key=len).strip(" …:/=,")
        assert longest in sources, message


PLACES = re.compile(r"\b(?:ID|N|X|NAME|REASON)\b")


def test_every_message_of_the_sources_is_on_the_page() -> None:
    """Each text of an event: literals, those of tables, and variables that are assigned nearby."""
    known = {PLACES.sub("*", message) for message, _, _ in MESSAGES}
    found = event_texts()
    assert len(found) > 15
    assert [text for text in found if not any(text.strip(" ") in message for message in known)] == []


def event_texts() -> set[str]:
    """Texts of the service's sources that become messages of events, `*` for what is filled in."""
    found: set[str] = set()
    for path in (ROOT / "src/tunewright/service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("_TOLD", "_MESSAGES"):
                found |= literals(node.value)
            if isinstance(node, ast.FunctionDef):
                found |= texts_of_calls(node)
    return found


def texts_of_calls(function: ast.FunctionDef) -> set[str]:
    """Texts that a function gives to events, also by way of its variables."""
    calls = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("NewEvent", "EventModel", "self._warn")
    ]
    given = [value for call in calls for value in (*call.args, *(word.value for word in call.keywords))]
    names = {value.id for value in given if isinstance(value, ast.Name)}
    found = {text for value in given for text in literals(value)}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target).partition("[")[0] in names | ({"created"} if calls else set()):
                found |= literals(node.value)
    return found


def literals(node: ast.AST) -> set[str]:
    """Texts of several words, those with places to fill in as a whole."""
    if isinstance(node, ast.JoinedStr | ast.Constant):
        text = as_text(node)
        return {text} if " " in text else set()
    return {text for child in ast.iter_child_nodes(node) for text in literals(child)}


def as_text(node: ast.AST) -> str:
    """A literal as the table has it; empty for what is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return re.sub(r"\{\w*\}", "*", text)


def test_recorded_events_are_on_the_page() -> None:
    words = [re.sub(r"\\?\b(ID|N|X|NAME|REASON)\b", ".+", re.escape(message)) for message, _, _ in MESSAGES]
    known = re.compile("|".join(words))
    events = EXAMPLES["GET /v1/fine_tuning/jobs/{job_id}/events"][0]["answer"]["data"]
    assert events
    for event in events:
        assert known.match(event["message"]), event["message"]
