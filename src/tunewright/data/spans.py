"""Which characters of a rendered conversation are trained.

A trained span runs from the end of the generation-prompt rendering to the end of the turn, checked per
row: nothing depends on generation marks in the template or on finding the content verbatim. Templates
that render a turn differently once it is history get one rendering per such turn, so that every trained
turn is seen exactly as inference would see it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tunewright.config.schema import DataConfig
from tunewright.data.dropped import DroppedPart, find_dropped, is_emptied
from tunewright.data.special_tokens import find_turn_end, shared_length
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Conversation, Message

_REASONING = re.compile(r"^\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rendering:
    """One text of a row and its trained spans: (first character, end, loss weight), in order."""

    text: str
    spans: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True)
class RowSpans:
    """All renderings of a row, and what the report counts.

    missing_end: trained turns that no special token closes. shifted_prompts: trained turns whose rendering
    does not begin with the whole generation prompt. left_out: assistant turns not trained because of
    `thinking: last_only`. dropped: parts of the row that appear in no rendering.
    """

    renderings: tuple[Rendering, ...]
    missing_end: int = 0
    shifted_prompts: int = 0
    left_out: int = 0
    dropped: tuple[DroppedPart, ...] = ()


@dataclass(slots=True)
class _Turn:
    """A trained turn in the rendering that ends with it. `sure_end`: end of its closing token."""

    text: str
    start: int
    sure_end: int
    weight: float


@dataclass(slots=True)
class _Host:
    turn: _Turn
    spans: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])


def find_spans(row: Conversation, tokenizer: ChatTokenizer, data: DataConfig) -> RowSpans:
    """Render `row` and find what is trained in it. Raises DataError when the template refuses the row or
    its renderings do not extend each other."""
    drop = data.thinking == "drop"
    messages = tuple(_without_reasoning(m) for m in row.messages) if drop else row.messages
    weights = turn_weights(messages, data.train_on)
    if data.train_on == "all":
        return _whole_text(messages, row.tools, tokenizer, weights)
    turns: list[_Turn] = []
    own: dict[int, str] = {}
    missing = shifted = 0
    for index, weight in weights.items():
        if weight == 0:
            continue
        turn, exact, ended = _render_turn(messages, index, row.tools, tokenizer, weight)
        own[index] = turn.text[turn.start : turn.sure_end]
        _check_emptied(messages[index], index, own[index], tokenizer)
        turns.append(turn)
        missing += not ended
        shifted += not exact
    hosts = _share_renderings(turns, tokenizer)
    left_out = 0
    if data.thinking == "last_only" and len(hosts) > 1:
        left_out = sum(len(host.spans) for host in hosts[:-1])
        hosts = hosts[-1:]
    renderings = tuple(Rendering(host.turn.text, tuple(sorted(host.spans))) for host in hosts)
    texts = [rendering.text for rendering in renderings]
    dropped = (
        find_dropped(_last_trained(messages, weights), row.tools, tokenizer, own, texts) if texts else ()
    )
    return RowSpans(renderings, missing, shifted, left_out, dropped)


def turn_weights(messages: Sequence[Message], train_on: str) -> dict[int, float]:
    """Loss weight of each assistant turn by its index; a weight given in the row overrides `train_on`."""
    assistant = [index for index, message in enumerate(messages) if message.role == "assistant"]
    weights: dict[int, float] = {}
    for index in assistant:
        given = messages[index].weight
        default = 1.0 if train_on != "last_assistant" or index == assistant[-1] else 0.0
        weights[index] = default if given is None else given
    return weights


def _render_turn(
    messages: Sequence[Message], index: int, tools: Sequence[str], tokenizer: ChatTokenizer, weight: float
) -> tuple[_Turn, bool, bool]:
    """The turn as inference produces it; whether the whole prompt precedes it; whether a token closes it."""
    text = tokenizer.render(messages[: index + 1], tools)
    prompt = _render_prompt(messages[:index], tools, tokenizer, text)
    exact = text.startswith(prompt)
    start = len(prompt) if exact else _shifted_start(text, prompt, messages[:index], tools, tokenizer)
    end = find_turn_end(text, start, tokenizer.special_pattern)
    if end:
        return _Turn(text, start, end[1], weight), exact, True
    # Some templates (GLM) close no turn: the model stops by writing the token that opens the next one.
    closing = tokenizer.opening_stop("tool" if messages[index].tool_calls else "user")
    text += closing
    return _Turn(text, start, len(text), weight), exact, bool(closing)


def _check_emptied(message: Message, index: int, own: str, tokenizer: ChatTokenizer) -> None:
    """Raise DataError when the template leaves an empty turn, which would be trained as an answer."""
    if is_emptied(message, own, tokenizer.special_pattern):
        kinds = [
            name
            for name, part in (
                ("tool calls", message.tool_calls),
                ("reasoning", message.reasoning),
                ("content", message.content.strip()),
            )
            if part
        ]
        raise DataError(
            f"the chat template leaves turn {index + 1} empty: it drops its {' and '.join(kinds)}",
            expected="a template that renders all of a trained turn",
            hint="give another data.chat_template, or keep the turn out of the loss with weight 0",
            code="data.turn-dropped",
        )


def _render_prompt(
    before: Sequence[Message], tools: Sequence[str], tokenizer: ChatTokenizer, through: str
) -> str:
    if any(message.role != "system" for message in before):
        return tokenizer.render(before, tools, generation_prompt=True)
    try:
        return tokenizer.render(before, tools, generation_prompt=True)
    except DataError:
        # The assistant speaks first and the template renders nothing before a user turn: the header that
        # opens an assistant turn elsewhere opens it here, and this is the only assistant turn so far.
        probe = (Message("user", "question"),)
        plain, prompted = tokenizer.render(probe), tokenizer.render(probe, generation_prompt=True)
        header = prompted[shared_length(plain, prompted) :]
        at = through.find(header)
        return through[: at + len(header)] if header and at >= 0 else prompted


def _shifted_start(
    text: str, prompt: str, before: Sequence[Message], tools: Sequence[str], tokenizer: ChatTokenizer
) -> int:
    """Where the turn begins when the prompt says more than the rendered turn (a prefilled `<think>`, say):
    after the last special token or line end that both share, which must lie in the generation prompt."""
    shared = shared_length(text, prompt)
    history = shared_length(tokenizer.render(before, tools), prompt) if before else 0
    ends = [m.end() for m in tokenizer.special_pattern.finditer(text) if m.end() <= shared]
    start = max([text.rfind("\n", 0, shared) + 1, *ends])
    if start <= history:
        raise DataError(
            f"turn {len(before) + 1} does not begin with the generation prompt of the chat template",
            got=repr(text[shared : shared + 40]),
            expected=repr(prompt[shared : shared + 40]),
            hint="this template cannot be trained turn by turn; give another one as data.chat_template",
            code="data.template-not-prefix",
        )
    return start


def _share_renderings(turns: Sequence[_Turn], tokenizer: ChatTokenizer) -> list[_Host]:
    """Put each turn into the latest rendering that shows it as inference does, in order of turns."""
    hosts: list[_Host] = []
    for turn in reversed(turns):
        shown = turn.text[: turn.sure_end]
        host = next((host for host in hosts if host.turn.text.startswith(shown)), None)
        if host is None:
            host = _Host(turn)
            hosts.append(host)
        host.spans.append((turn.start, _shared_end(turn, host.turn.text, tokenizer), turn.weight))
    return hosts[::-1]


def _shared_end(turn: _Turn, host: str, tokenizer: ChatTokenizer) -> int:
    """End of the turn in `host`: its closing token and what follows it in both texts, in whole pieces."""
    at = turn.sure_end
    while at < len(turn.text):
        special = tokenizer.special_pattern.match(turn.text, at)
        piece = special.group() if special else turn.text[at]
        if not host.startswith(piece, at):
            break
        at += len(piece)
    return at


def _whole_text(
    messages: Sequence[Message], tools: Sequence[str], tokenizer: ChatTokenizer, weights: dict[int, float]
) -> RowSpans:
    """Every token is trained, but for turns that the row weighs otherwise."""
    text = tokenizer.render(messages, tools)
    spans: list[tuple[int, int, float]] = []
    at = 0
    for index, weight in weights.items():
        if weight == 1.0:
            continue
        turn, _, _ = _render_turn(messages, index, tools, tokenizer, weight)
        if not text.startswith(turn.text[: turn.sure_end]):
            raise DataError(
                f"turn {index + 1} is rendered differently once it is history, so its weight has no place",
                hint="leave the weights out, or use data.train_on: assistant",
                code="data.template-not-prefix",
            )
        spans += [(at, turn.start, 1.0), (turn.start, turn.sure_end, weight)]
        at = turn.sure_end
    spans.append((at, len(text), 1.0))
    ended = not messages or find_turn_end(text, 0, tokenizer.special_pattern) is not None
    dropped = find_dropped(_last_trained(messages, weights), tools, tokenizer, {}, [text])
    return RowSpans((Rendering(text, tuple(spans)),), missing_end=int(not ended), dropped=dropped)


def _without_reasoning(message: Message) -> Message:
    if message.role != "assistant":
        return message
    return replace(message, reasoning=None, content=_REASONING.sub("", message.content))


def _last_trained(messages: Sequence[Message], weights: dict[int, float]) -> Sequence[Message]:
    """The messages up to the last trained turn: nothing trained depends on what follows."""
    last = max((index for index, weight in weights.items() if weight), default=len(messages) - 1)
    return messages[: last + 1]
