"""Answers of chats and completions, whole and in pieces, against OpenAI's schemas and against our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import jsonschema_rs
import pytest

from openai_schemas import faults
from service_server import RunningServer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
DATE = [{"role": "user", "content": "Oct 12, 2044"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
Validator = jsonschema_rs.Draft202012Validator


@pytest.fixture
def http(server: RunningServer, project: str) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {server.key(project=project)}"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=100) as found:
        yield found


@pytest.fixture(scope="module")
def document(server: RunningServer) -> Any:
    """Our own OpenAPI document."""
    return httpx2.get(f"{server.url}/openapi.json").json()


@pytest.fixture(scope="module")
def ours(document: Any) -> Callable[[str, Any], list[str]]:
    """Where an answer of a call is not what our document says of it, also what it does not know of."""

    def check(path: str, value: Any, chunk: bool = False) -> list[str]:
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        said = content["application/json"]["schema"]
        if chunk:
            said = content["text/event-stream"]["itemSchema"]["properties"]["data"]["contentSchema"]
        validator = Validator({**said, "components": _closed(document["components"])})
        return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]

    return check


def _closed(components: Any) -> Any:
    """The same schemas, in which an object has the named fields and no others."""
    schemas = {
        name: {**schema, "additionalProperties": False} if "properties" in schema else schema
        for name, schema in components["schemas"].items()
    }
    return {"schemas": schemas}


CHATS: dict[str, Any] = {
    "plain": {},
    "several": {"n": 2, "seed": 3},
    "log-probabilities": {"logprobs": True, "top_logprobs": 2},
    "counted": {"stream_options": {"include_usage": True}},
}
TEXTS: dict[str, Any] = {
    "plain": {},
    "several": {"prompt": ["The", "A"], "n": 2},
    "log-probabilities": {"logprobs": 2},
    "counted": {"stream_options": {"include_usage": True}},
}


def _ask(http: httpx2.Client, path: str, asked: Any, *, stream: bool) -> list[Any]:
    """The answer, or its chunks."""
    body = {
        "model": "builtin:tiny",
        "max_tokens": 6,
        **({"messages": DATE} if path == CHAT else {"prompt": "The"}),
    }
    body |= asked
    if not stream:
        body.pop("stream_options", None)
    answer = http.post(path, json={**body, "stream": stream})
    assert answer.status_code == 200, answer.text
    if not stream:
        return [answer.json()]
    *lines, last = [line for line in answer.text.splitlines() if line.startswith("data:")]
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data:")) for line in lines]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", CHATS)
def test_chats(name: str, stream: bool, http: httpx2.Client, ours: Any) -> None:
    schema = "CreateChatCompletionStreamResponse" if stream else "CreateChatCompletionResponse"
    told = _ask(http, CHAT, CHATS[name], stream=stream)
    for each in told:
        assert faults(schema, each) == [], each
        assert ours(CHAT, each, chunk=stream) == [], each
    assert len({each["id"] for each in told}) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", TEXTS)
def test_completions(name: str, stream: bool, http: httpx2.Client, ours: Any) -> None:
    for each in _ask(http, TEXT, TEXTS[name], stream=stream):
        assert ours(TEXT, each, chunk=stream) == [], each
        # OpenAI's document leaves out that the reason is null until the last piece, as OpenAI sends it.
        for choice in each["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        if each.get("usage", {}) is None:
            del each["usage"]
        assert faults("CreateCompletionResponse", each) == [], each


def test_an_echo_is_what_we_say(http: httpx2.Client, ours: Any) -> None:
    """The first token of a prompt has no log-probability: null, as OpenAI answers and does not document."""
    asked = {"echo": True, "logprobs": 1, "max_tokens": 0}
    (told,) = _ask(http, TEXT, asked, stream=False)
    assert ours(TEXT, told) == []
    assert told["choices"][0]["logprobs"]["token_logprobs"][0] is None


def test_every_answer_is_described(document: Any) -> None:
    """No call answers with just anything, and nothing in the document points nowhere."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for kind, said in operation["responses"]["200"].get("content", {}).items():
                assert said["schema"], (method, path, kind)
    named = set(_names(document))
    assert named <= document["components"]["schemas"].keys()
    assert {"ChatCompletionChunk", "Delta", "TextCompletion"} <= named


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _names(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _names(value)


def test_a_schema_of_ours_says_no_when_it_should(ours: Any) -> None:
    assert ours(CHAT, {"object": "chat.completion"})
    assert ours(CHAT, {"object": "chat.completion.chunk"}, chunk=True)
    assert ours(TEXT, {"choices": [{"index": 0}]})
