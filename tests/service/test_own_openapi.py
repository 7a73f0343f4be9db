"""Calls made up from our own OpenAPI document: none makes the server fail, every answer is what it says."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from service_server import RunningServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
EXAMPLES = int(os.environ.get("API_EXAMPLES", "4"))
"""Made-up calls for each kind of call; `make fuzz-api` makes many."""


@pytest.fixture(scope="module")
def document(any_server: RunningServer) -> Any:
    return schemathesis.openapi.from_url(f"{any_server.url}/openapi.json")


@pytest.fixture(scope="module")
def key(any_server: RunningServer) -> Iterator[str]:
    return any_server.key(project="made-up")


def test_every_call_with_made_up_values(document: Any, key: str, any_server: RunningServer) -> None:
    found = [each.ok() for each in document.get_all_operations()]
    assert len(found) >= 17
    for operation in found:
        examples = EXAMPLES
        if operation.path.endswith("completions"):
            # These answer with a model, which takes its time and has nothing to do with the database.
            examples = 1 + EXAMPLES // 4 if any_server.service.database.is_sqlite else 0
        if examples:
            _call_with_made_up_values(operation, key, examples)


def _call_with_made_up_values(operation: Any, key: str, examples: int) -> None:
    # Valid and invalid values, in turn.
    for mode in schemathesis.GenerationMode:

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="API_EXAMPLES" not in os.environ,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case: Any) -> None:
            answer = case.call(headers={"authorization": f"Bearer {key}"})
            case.validate_response(answer, checks=CHECKS)

        # A call without parameters cannot be made wrong.
        with suppress(Unsatisfiable):
            call()
