"""Chats and completions through the official client, on a real model server."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from openai import APIError, BadRequestError, InternalServerError, NotFoundError, OpenAI
from transformers import AutoModelForCausalLM

from processes import child_environment, command_line
from service_server import RunningServer, serve_here, server_pid, wait_until
from tunewright.data.templates import load_tokenizer
from tunewright.models.resolve import resolve_model
from tunewright.service.inference.settings import InferenceSettings
from tunewright.service.settings import ServeSettings
from tunewright.types import Message

TINY = "builtin:tiny"
DATE: Any = [{"role": "user", "content": "Oct 12, 2044"}]
PLACES = 4
LONG: dict[str, Any] = {"model": TINY, "messages": DATE, "logit_bias": {"257": -100}, "temperature": 1.5}
"""A chat whose model never comes to its end."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    inference = InferenceSettings(requests=PLACES, wait_seconds=100)
    settings = ServeSettings(home=tmp_path_factory.mktemp("home"), inference=inference)
    with serve_here(settings) as running:
        yield running


def _text(client: OpenAI, **options: Any) -> str:
    asked = {"model": TINY, "messages": DATE, "max_completion_tokens": 24, **options}
    return client.chat.completions.create(**asked).choices[0].message.content or ""


def test_a_chat_is_answered_and_counted(client: OpenAI) -> None:
    found = client.chat.completions.create(model=TINY, messages=DATE, temperature=0, max_tokens=6)
    choice = found.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is None
    prompt = load_tokenizer(resolve_model(TINY).folder, None).encode_prompt([Message("user", "Oct 12, 2044")])
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(prompt)
    assert found.usage.total_tokens == len(prompt) + found.usage.completion_tokens
    assert found.id.startswith("chatcmpl-")
    assert found._request_id


def test_a_stream_has_the_text_of_the_whole_and_ends_in_order(client: OpenAI) -> None:
    whole = _text(client, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=TINY, messages=DATE, temperature=0, max_completion_tokens=24, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]].count("stop") == 1
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens > 0


def test_the_lines_of_a_stream_end_with_done(server: RunningServer, project: str) -> None:
    headers = {"authorization": f"Bearer {server.key(project=project)}"}
    body = {"model": TINY, "messages": DATE, "max_tokens": 3, "stream": True}
    answer = httpx2.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])


def test_several_answers_differ_and_a_seed_repeats_them(client: OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        found = client.chat.completions.create(**LONG, n=3, seed=seed, max_tokens=16)
        assert [choice.index for choice in found.choices] == [0, 1, 2]
        return [choice.message.content for choice in found.choices]

    first = ask(7)
    assert len(set(first)) == 3
    # Others are answered in the same batch meanwhile; an answer does not depend on them.
    with ThreadPoolExecutor(3) as pool:
        again, other, third = pool.map(ask, (7, 8, -1))
    assert again == first
    assert other != first
    assert third != first


def test_log_probabilities_are_those_of_the_model(client: OpenAI) -> None:
    found = client.chat.completions.create(
        model=TINY, messages=DATE, seed=3, max_tokens=12, logprobs=True, top_logprobs=3
    )
    assert found.choices[0].logprobs
    told = found.choices[0].logprobs.content or []
    assert bytes(byte for each in told for byte in each.bytes or ()).decode() == (
        found.choices[0].message.content
    )
    folder = resolve_model(TINY).folder
    tokenizer = load_tokenizer(folder, None)
    prompt = tokenizer.encode_prompt([Message("user", "Oct 12, 2044")])
    answer = tokenizer.encode(found.choices[0].message.content or "")[0]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    chosen = expected.gather(-1, torch.tensor(answer)[:, None]).sum()
    assert math.isclose(sum(each.logprob for each in told), float(chosen), abs_tol=1e-3)
    for each, best in zip(told, expected.topk(3).values.tolist(), strict=True):
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(best, abs=1e-3)


def test_stop_texts_over_token_borders_end_an_answer(client: OpenAI) -> None:
    # Tokens of this model are single bytes, so each stop text spans several.
    whole = _text(client, seed=5, temperature=1.5, max_completion_tokens=40, logit_bias={"257": -100})
    assert len(whole) > 12
    stop = whole[6:9]
    options = {"seed": 5, "temperature": 1.5, "max_completion_tokens": 40, "logit_bias": {"257": -100}}
    for stops in (stop, ["never there", stop]):
        assert _text(client, stop=stops, **options) == whole[: whole.index(stop)]
    chunks = client.chat.completions.create(
        model=TINY, messages=DATE, stream=True, stop=[stop], logprobs=True, **options
    )
    choices = [chunk.choices[0] for chunk in chunks]
    assert "".join(choice.delta.content or "" for choice in choices) == whole[: whole.index(stop)]
    assert choices[-1].finish_reason == "stop"
    told = [each for choice in choices if choice.logprobs for each in choice.logprobs.content or ()]
    assert "".join(each.token for each in told) == whole[: whole.index(stop)]


def test_penalties_and_bias_change_the_answer(client: OpenAI) -> None:
    forced = _text(client, temperature=0, logit_bias={str(ord("z")): 100}, max_completion_tokens=4)
    assert forced == "zzzz"
    varied = _text(
        client,
        temperature=0,
        logit_bias={"122": 100, "121": 100},
        frequency_penalty=2,
        max_completion_tokens=20,
    )
    assert set(varied) == {"y", "z"}


def test_completions_go_on_with_texts_and_tokens(client: OpenAI) -> None:
    asked: Any = {"model": TINY, "max_tokens": 4, "temperature": 0, "logit_bias": {"257": -100}}
    one, two = (client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in ("a", "xyz"))
    both = client.completions.create(prompt=["a", "xyz"], n=2, **asked)
    assert [choice.text for choice in both.choices] == [one, one, two, two]
    tokens = client.completions.create(prompt=[[97], [120, 121, 122]], **asked)
    assert [choice.text for choice in tokens.choices] == [one, two]
    streamed = client.completions.create(prompt=["a", "xyz"], stream=True, **asked)
    texts = ["", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [one, two]


def test_equal_prompts_of_one_call_get_answers_of_their_own(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": TINY, "max_tokens": 12, "temperature": 1.0, "seed": 5}
    same = client.completions.create(prompt=["hello", "hello"], **asked).choices
    assert same[0].text != same[1].text
    again = client.completions.create(prompt=["hello", "hello"], **asked).choices
    assert [choice.text for choice in again] == [choice.text for choice in same]


def test_a_text_is_scored_by_echo(client: OpenAI) -> None:
    found = client.completions.create(model=TINY, prompt="Hello", max_tokens=0, echo=True, logprobs=2)
    choice = found.choices[0]
    assert choice.text == "Hello"
    assert choice.logprobs
    assert choice.logprobs.tokens == list("Hello")
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    told = choice.logprobs.token_logprobs or []
    assert told[0] is None
    model = AutoModelForCausalLM.from_pretrained(resolve_model(TINY).folder, dtype=torch.float32).eval()
    ids = torch.tensor([list(b"Hello")])
    with torch.no_grad():
        expected = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    assert told[1:] == pytest.approx(expected.tolist(), abs=1e-3)
    assert found.usage
    assert found.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"stop": 3}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [*DATE, {"role": "system", "content": "late"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
        ({"unheard": 1}, "unheard"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, wrong: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(**{"model": TINY, "messages": DATE}, extra_body=wrong)
    assert caught.value.param == param
    assert caught.value.code


@pytest.mark.parametrize("prompt", [[-1], [True], 5, [["a"]], [[1], 2], [2**31], {}])
def test_what_is_no_prompt_is_refused_by_name(client: OpenAI, prompt: Any) -> None:
    with pytest.raises(BadRequestError, match="expected a text, tokens") as caught:
        client.completions.create(model=TINY, prompt=prompt)
    assert (caught.value.param, caught.value.code) == ("prompt", "invalid_value")


def test_harmless_fields_and_nulls_are_taken(client: OpenAI) -> None:
    nothing: Any = dict.fromkeys(("stop", "seed", "tools", "logit_bias", "response_format", "n", "top_p"))
    more = {"store": True, "metadata": {"a": "b"}, "reasoning_effort": "low", "user": "u", "verbosity": "low"}
    assert _text(client, temperature=0, extra_body={**nothing, **more}) == _text(client, temperature=0)


def test_models_of_nobody_and_of_others_are_equally_unknown(server: RunningServer, client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.chat.completions.create(model="ft:builtin:tiny:else::abc", messages=DATE)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_tools_are_shown_and_calls_come_back(client: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    call: Any = {
        "id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'},
    }  # fmt: skip
    messages: Any = [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "4"},
    ]
    with_tools, without = (
        client.chat.completions.create(model=TINY, messages=messages, max_tokens=1, **given).usage
        for given in ({"tools": tools}, {"tools": tools, "tool_choice": "none"})
    )
    assert with_tools
    assert without
    assert with_tools.prompt_tokens > without.prompt_tokens


def test_a_client_that_goes_frees_its_place(server: RunningServer, client: OpenAI) -> None:
    process = _process(server)
    with client.chat.completions.create(**LONG, max_tokens=3000, stream=True) as stream:
        next(iter(stream))
        assert process.in_flight == 1
    wait_until(lambda: process.in_flight == 0, "the stream that was left is given up")
    with pytest.raises(APIError):
        client.with_options(timeout=0.3).chat.completions.create(**LONG, max_tokens=3000)
    wait_until(lambda: process.in_flight == 0, "the call that was left is given up")


def test_the_api_process_loads_no_model_library(service_process: RunningServer) -> None:
    with service_process.client() as found:
        assert _text(found, temperature=0)
    # The maps of a process name every library that it loaded.
    maps = Path(f"/proc/{server_pid(service_process)}/maps").read_text()
    assert "torch" not in maps
    assert "tokenizers" not in maps


def test_a_model_server_that_is_killed_comes_back(server: RunningServer, client: OpenAI) -> None:
    process = _process(server)
    _text(client, max_completion_tokens=1)
    stream = iter(client.chat.completions.create(**LONG, max_tokens=3000, stream=True))
    next(stream)
    os.kill(process.pid or 0, signal.SIGKILL)
    with pytest.raises(APIError, match="ask again") as caught:
        list(stream)
    assert caught.value.code == "busy"
    with pytest.raises(InternalServerError) as refused:
        _text(client)
    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) > 0
    wait_until(lambda: process.resting_seconds() == 0, "it may be started again")
    assert _text(client, max_completion_tokens=3)


def test_a_model_that_is_being_loaded_is_told_so(tmp_path) -> None:
    settings = ServeSettings(tmp_path / "home", inference=InferenceSettings(wait_seconds=0.01))
    with serve_here(settings) as server, server.client(max_retries=0) as client:
        with pytest.raises(InternalServerError, match="being loaded") as caught:
            _text(client)
        assert caught.value.response.headers["retry-after"] == "5"


def test_a_full_server_says_so(server: RunningServer, client: OpenAI) -> None:
    streams = [client.chat.completions.create(**LONG, max_tokens=3000, stream=True) for _ in range(PLACES)]
    with pytest.raises(InternalServerError, match="too many") as caught:
        _text(client)
    assert caught.value.response.headers["retry-after"] == "5"
    # Whoever has nothing in the making is not kept out by one who has.
    with server.client(project="another", max_retries=0) as other:
        assert _text(other, max_completion_tokens=1)
    for stream in streams:
        stream.close()
    wait_until(lambda: _process(server).in_flight == 0, "all places are free again")


def test_chats_can_be_switched_off(tmp_path) -> None:
    settings = ServeSettings(tmp_path / "home", inference=InferenceSettings(policy="off"))
    with serve_here(settings) as server, server.client(max_retries=0) as client:
        with pytest.raises(NotFoundError) as caught:
            _text(client)
        assert caught.value.code == "inference_off"


def test_a_tuned_model_answers_at_once_and_as_generate_does(
    service_process: RunningServer, trained_job: str
) -> None:
    with service_process.client(project="trained", max_retries=0) as client:
        tuned = client.fine_tuning.jobs.retrieve(trained_job).fine_tuned_model or ""
        checkpoint = client.fine_tuning.jobs.checkpoints.list(trained_job).data[-1]
        names = (TINY, tuned, checkpoint.fine_tuned_model_checkpoint)
        asked: Any = {"messages": DATE, "temperature": 0, "max_tokens": 24, "logprobs": True}
        answers = [client.chat.completions.create(model=name, **asked).choices[0] for name in names]
    sums = {sum(each.logprob for each in choice.logprobs.content or ()) for choice in answers}
    assert len(sums) >= 2, "tuning changed nothing"
    folders = (service_process.service.settings.home / "served").iterdir()
    assert sorted(map(_generate, folders)) == sorted(choice.message.content or "" for choice in answers[1:])
    with service_process.client(project="else", max_retries=0) as other, pytest.raises(NotFoundError):
        _text(other, model=tuned)


def _process(server: RunningServer) -> Any:
    app = server.app
    while not hasattr(app, "state"):
        app = app.app
    return app.state.model_server.process


def _generate(adapter: Path) -> str:
    command = command_line(["generate", TINY, "--adapter", adapter, "--prompt", "Oct 12, 2044"])
    command += ["--max-new-tokens", "24"]
    environment = child_environment(adapter.parent, {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout[:-1]


def test_a_model_server_that_hears_nothing_holds_up_nobody_else(tmp_path: Path) -> None:
    """A call of a device can hold a process for minutes, and it is sent more than a pipe takes meanwhile."""
    settings = ServeSettings(tmp_path / "home", inference=InferenceSettings(wait_seconds=2))
    with serve_here(settings) as server, server.client(max_retries=0, timeout=60) as client:
        with suppress(InternalServerError):
            _text(client)
        process = _process(server)
        pid = process.pid or 0
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as pool:
            try:
                large: Any = [{"role": "user", "content": "1 " * 200_000}]
                asked = [pool.submit(_text, client), pool.submit(_text, client, messages=large)]
                for one in asked:
                    with pytest.raises(InternalServerError, match="waits for its turn"):
                        one.result(timeout=20)
                assert httpx2.get(f"{server.url}/health", timeout=10).status_code == 200
                process.stop()
                assert not Path(f"/proc/{pid}").exists()
            finally:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
