"""The API reference: docs/reference/api.md from the OpenAPI document of the running program.

What a call, parameter or field means is the docstring beside it in `service/routes` and `service/schemas`.
The examples were recorded on a real server by docs/record_api.py; a test holds them against the schemas.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api_schemas import field_rows, kind_of, object_rows, table
from api_tables import attempt_rows, event_rows, extra_rows, limit_rows, refusal_rows
from starlette.testclient import TestClient

from tunewright.service.app import build_app
from tunewright.service.server import open_service
from tunewright.service.settings import ServeSettings

EXAMPLES = Path(__file__).parent / "reference" / "api_examples.json"
SHOWN_LINES = 60
INTRO = """# The API

`http://127.0.0.1:8200` unless `tunewright serve` was told otherwise. Paths are those of OpenAI's API, so
that its clients work unchanged; [moving from OpenAI](../guides/moving-from-openai.md) says what differs.

- Every call but `GET /health` needs `Authorization: Bearer ftk_…`; what a key may do is its
  [scope](../concepts/service.md#keys-and-projects). A key sees its own project only.
- Bodies are JSON, whatever `content-type` they come with; uploads are `multipart/form-data`. A field that is
  not listed here is refused, so that a typing error is not ignored.
- Every GET can be asked as HEAD.
- Every answer has `x-request-id` and `openai-processing-ms`. A refusal has the [envelope](#errors).
- `GET /openapi.json` is this page for programs, `GET /docs` the same to try in a browser. Neither needs a
  key.
- The examples are a recorded session; ids and keys are replaced.
"""


def api_page() -> str:
    """The reference of every call, object, event and refusal."""
    document = openapi()
    examples = read_examples()
    lines = [*INTRO.rstrip().splitlines(), *_overview(document)]
    for method, path, operation in operations(document):
        lines += _call(document, method, path, operation, examples.get(f"{method} {path}", ()))
    lines += ["", "## Objects", ""]
    lines += ["A field that may be null is always there."]
    for name in _answered(document):
        lines += ["", f"### {name}", "", *object_rows(document, name)]
    hyperparameters = document["components"]["schemas"]["Hyperparameters"]
    lines += ["", "### Hyperparameters", "", *hyperparameters["description"].splitlines(), ""]
    lines += field_rows(document, hyperparameters)
    lines += ["", "### x_config", "", *extra_rows()]
    lines += ["", "## Events", "", *event_rows()]
    lines += ["", "## Errors", "", *refusal_rows()]
    lines += ["", "## Ends of an attempt", "", *attempt_rows()]
    lines += ["", "## Limits", "", *limit_rows()]
    return "\n".join(lines) + "\n"


def openapi() -> dict[str, Any]:
    """The OpenAPI document as a client gets it."""
    with tempfile.TemporaryDirectory() as folder:
        service = open_service(ServeSettings(home=Path(folder)))
        try:
            return TestClient(build_app(service)).get("/openapi.json").json()
        finally:
            service.database.close()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every call, those on one path together."""
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def read_examples() -> dict[str, list[dict[str, Any]]]:
    """Recorded exchanges by `METHOD /path`."""
    return json.loads(EXAMPLES.read_text(encoding="utf-8"))


def _overview(document: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## Calls", "", "| call | |", "| --- | --- |")
    for method, path, operation in operations(document):
        anchor = f"{method} {path}".lower()
        link = "".join(letter for letter in anchor if letter.isalnum() or letter in "-_ ").replace(" ", "-")
        yield f"| [`{method} {path}`](#{link}) | {_sentence(operation['description'])} |"


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _call(
    document: dict[str, Any], method: str, path: str, operation: dict[str, Any], examples: Any
) -> Iterator[str]:
    yield from ("", f"### `{method} {path}`", "", *operation["description"].strip().splitlines())
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (f"`{item['name']}`", kind_of(item["schema"]), _default(item), item.get("description", ""))
            for item in parameters
        ]
        yield from ("", *table(("parameter", "accepts", "default", ""), rows))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from ("", f"Body, `{media}`:", "", *field_rows(document, content["schema"]))
    answer = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema")
    if answer:
        yield from ("", f"Answers {kind_of(answer)}.")
    for example in examples:
        yield from ("", *_example(example))


def _default(parameter: dict[str, Any]) -> str:
    if parameter.get("required"):
        return "required"
    value = parameter["schema"].get("default")
    return "" if value is None else f"`{value}`"


def _example(example: dict[str, Any]) -> Iterator[str]:
    yield "```http"
    yield example["request"]
    for body in ("form", "body"):
        if body in example:
            yield from _shown(example[body])
    yield from ("", f"{example['status']}")
    yield from _shown(example["answer"])
    yield "```"


def _shown(body: Any) -> list[str]:
    text = body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)
    lines = text.rstrip("\n").splitlines()
    return lines if len(lines) <= SHOWN_LINES else [*lines[:SHOWN_LINES], "…"]


def _answered(document: dict[str, Any]) -> list[str]:
    """Names of the schemas of answers, but for pages, which are all alike, and what only requests hold."""
    schemas = document["components"]["schemas"]
    asked: set[str] = set()
    for _, _, operation in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            _collect(document, content["schema"], asked)
    return [name for name in schemas if name not in asked and not name.startswith("Page_")]


def _collect(document: dict[str, Any], schema: Any, found: set[str]) -> None:
    if isinstance(schema, list):
        for item in schema:
            _collect(document, item, found)
    elif isinstance(schema, dict):
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name and name not in found:
            found.add(name)
            _collect(document, document["components"]["schemas"][name], found)
        for value in schema.values():
            _collect(document, value, found)
