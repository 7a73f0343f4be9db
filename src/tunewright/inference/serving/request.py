"""A request as the server sends it, one JSON line, and what it means to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, TunewrightError
from tunewright.inference.batch import Answer
from tunewright.inference.constraint import Constraint, GrammarVocabulary
from tunewright.inference.generator import answer_room
from tunewright.inference.grammar import Grammar
from tunewright.inference.sampling import Sampler, SamplingOptions
from tunewright.inference.serving.prompt_process import PromptProcess
from tunewright.inference.serving.told import Told, Voice
from tunewright.inference.tool_calls import CallFormat
from tunewright.inference.vocabulary import Vocabulary

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
    """A request. Its prompt is `messages`, as message_of takes them, with `tools` and `template_options`, or
    `prompt`: text or token ids. grammar: fields of Grammar, which the answers keep to. first: the number of
    its first answer among all of a call, which keys the draws. project: whose it is; projects take turns."""

    id: str
    model: ModelName
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[str] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    grammar: Mapping[str, Any] | None = None
    prompt: str | Sequence[int] = ""
    answers: int = 1
    first: int = 0
    limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    stops: Sequence[str] = ()
    log_probs: int | None = None
    echo: bool = False
    project: str = ""


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
    project: str = ""


def read_ask(line: dict[str, Any]) -> Ask:
    """The request of a line. Fields are those of Ask, with the model's beside them."""
    fields = {**line}
    folder = fields.pop("folder")
    model = ModelName(fields.pop("name"), fields.pop("base"), Path(folder) if folder else None)
    return Ask(model=model, **fields)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of a model whose prompts are read. folder: of its tokenizer. grammars: its tokens for
    grammars, made when the first one comes."""

    folder: Path
    vocabulary: Vocabulary
    voice: Voice
    grammars: Callable[[], GrammarVocabulary]
    max_positions: int | None
    bytes_per_token: int


def prepare(ask: Ask, reading: Reading, process: PromptProcess) -> Job:
    """Have the prompt read. Raises ConfigError for what does not fit, and as PromptProcess.ask does."""
    constraint = _constrain(ask.grammar, reading, process) if ask.grammar is not None else None
    prompt, calls = _read(ask, reading, process)
    room = answer_room(len(prompt), reading.max_positions)
    limit = min(LONGEST_ANSWER if ask.limit is None else ask.limit, room)
    options = _options(ask, reading.vocabulary)
    answers = [
        Answer(
            prompt, Sampler(options, ask.first + number), limit, reading.vocabulary.stop_ids, ask.log_probs,
            constraint.copy() if constraint is not None else None,
        )
        for number in range(ask.answers)
    ]  # fmt: skip
    return Job(
        ask.id, ask.model, prompt, answers,
        [Told(reading.voice, ask.stops, calls) for _ in answers],
        reading.voice, ask.echo, ask.log_probs, ask.answers * (len(prompt) + limit) * reading.bytes_per_token,
        ask.project,
    )  # fmt: skip


def _constrain(fields: Mapping[str, Any], reading: Reading, process: PromptProcess) -> Constraint:
    """The beginning of an answer in a grammar, which the process has survived first."""
    try:
        order = {"do": "grammar", "folder": str(reading.folder), "grammar": fields}
        return reading.grammars().constrain(process.ask(order)["text"])
    except TunewrightError as error:
        if error.where == "response_format" and Grammar(**fields).must_call:
            error.where = "tools"
        raise


def _read(ask: Ask, reading: Reading, process: PromptProcess) -> tuple[list[int], CallFormat | None]:
    if not ask.messages and not isinstance(ask.prompt, str):
        _check_ids(ask.prompt, reading.vocabulary, "prompt")
        return list(ask.prompt), None
    order = {
        "do": "read",
        "folder": str(reading.folder),
        "messages": ask.messages,
        "tools": ask.tools,
        "template_options": ask.template_options,
        "must_call": ask.grammar is not None and Grammar(**ask.grammar).must_call,
        "prompt": ask.prompt,
        "most": reading.max_positions,
    }
    told = process.ask(order)
    # A prompt with more tokens than the model has places comes without them.
    answer_room(told["count"], reading.max_positions)
    return told["tokens"], CallFormat(**told["calls"]) if told["calls"] else None


def _options(ask: Ask, vocabulary: Vocabulary) -> SamplingOptions:
    bias = {int(token): float(amount) for token, amount in ask.options.get("logit_bias", {}).items()}
    _check_ids(list(bias), vocabulary, "logit_bias")
    return SamplingOptions(**{**ask.options, "logit_bias": bias})


def _check_ids(ids: Sequence[int], vocabulary: Vocabulary, where: str) -> None:
    largest = vocabulary.largest_id
    wrong = next((token for token in ids if not 0 <= token <= largest), None)
    if wrong is not None:
        raise ConfigError(
            "there is no such token",
            where=where,
            got=wrong,
            expected=f"0 to {largest}",
            code="config.bad-token",
        )
