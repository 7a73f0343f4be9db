"""A request as the server sends it, one JSON line, and what it means to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError
from tunewright.inference.batch import Answer
from tunewright.inference.generator import answer_room
from tunewright.inference.sampling import Sampler, SamplingOptions
from tunewright.inference.serving.told import Told, Voice
from tunewright.inference.tool_calls import CallFormat, find_call_format, knows_tools
from tunewright.types import Message, ToolCall

LONGEST_ANSWER = 4096
"""Tokens of an answer that nobody limited: a model that never stops would fill its whole context."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model to answer with. name: what it is known by here. base: as resolve_model takes it. folder: an
    adapter on the base, or a whole model that was trained from it; None for the base itself."""

    name: str
    base: str
    folder: Path | None


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. Its prompt is `messages` with `tools`, or `prompt`: text or token ids. first: the number of
    its first answer among all of a call, which keys the draws."""

    id: str
    model: ModelName
    messages: Sequence[Message] = ()
    tools: Sequence[str] = ()
    prompt: str | Sequence[int] = ""
    answers: int = 1
    first: int = 0
    limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    stops: Sequence[str] = ()
    log_probs: int | None = None
    echo: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """A request with its prompt in tokens. cost: bytes of key-value cache that it may come to need."""

    id: str
    model: ModelName
    prompt: Sequence[int]
    answers: Sequence[Answer]
    told: Sequence[Told]
    voice: Voice
    echo: bool
    log_probs: int | None
    cost: int


def read_ask(line: dict[str, Any]) -> Ask:
    """The request of a line. Fields are those of Ask, with the model's beside them."""
    fields = {**line}
    folder = fields.pop("folder")
    model = ModelName(fields.pop("name"), fields.pop("base"), Path(folder) if folder else None)
    messages = [_message(message) for message in fields.pop("messages", ())]
    return Ask(model=model, messages=messages, **fields)


def prepare(ask: Ask, voice: Voice, *, max_positions: int | None, bytes_per_token: int) -> Job:
    """Render and tokenise. Raises ConfigError, DataError and ModelError for what the model cannot take."""
    calls = _call_format(ask, voice)
    prompt = _tokens(ask, voice)
    room = answer_room(len(prompt), max_positions)
    limit = min(LONGEST_ANSWER if ask.limit is None else ask.limit, room)
    options = _options(ask, voice)
    stop_ids = frozenset(voice.tokenizer.stop_ids)
    answers = [
        Answer(prompt, Sampler(options, ask.first + number), limit, stop_ids, ask.log_probs)
        for number in range(ask.answers)
    ]
    return Job(
        ask.id, ask.model, prompt, answers,
        [Told(voice, ask.stops, calls) for _ in answers],
        voice, ask.echo, ask.log_probs, ask.answers * (len(prompt) + limit) * bytes_per_token,
    )  # fmt: skip


def _tokens(ask: Ask, voice: Voice) -> list[int]:
    if ask.messages:
        return voice.tokenizer.encode_prompt(ask.messages, ask.tools)
    if isinstance(ask.prompt, str):
        return voice.tokenizer.encode_plain(ask.prompt)
    _check_ids(ask.prompt, voice, "prompt")
    return list(ask.prompt)


def _call_format(ask: Ask, voice: Voice) -> CallFormat | None:
    if not ask.tools:
        return None
    if not knows_tools(voice.tokenizer, ask.messages, ask.tools):
        raise ConfigError(
            "the chat template of this model has no place for tools", where="tools", code="config.no-tools"
        )
    if not voice.call_formats:
        voice.call_formats.append(find_call_format(voice.tokenizer))
    return voice.call_formats[0]


def _options(ask: Ask, voice: Voice) -> SamplingOptions:
    bias = {int(token): float(amount) for token, amount in ask.options.get("logit_bias", {}).items()}
    _check_ids(list(bias), voice, "logit_bias")
    return SamplingOptions(**{**ask.options, "logit_bias": bias})


def _check_ids(ids: Sequence[int], voice: Voice, where: str) -> None:
    largest = voice.tokenizer.largest_id
    wrong = next((token for token in ids if not 0 <= token <= largest), None)
    if wrong is not None:
        raise ConfigError(
            "there is no such token",
            where=where,
            got=wrong,
            expected=f"0 to {largest}",
            code="config.bad-token",
        )


def _message(fields: dict[str, Any]) -> Message:
    calls = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    return Message(**{**fields, "tool_calls": calls})
