"""What chats and completions answer with, for the OpenAPI document.

The answers themselves are made in `service/inference` and go out a token at a time, so they are not checked
again on their way. Tests hold them against these models and against OpenAI's own document.
"""

from __future__ import annotations

from typing import Literal

from tunewright.service.schemas.lists import ApiModel, ApiObject


class Usage(ApiModel):
    """Tokens of a call."""

    prompt_tokens: int
    """Of what was asked, each prompt counted once."""
    completion_tokens: int
    """Of all answers, without the token that ends one."""
    total_tokens: int
    """Both together."""


class AnswerObject(ApiObject):
    """What every answer has; all chunks of one answer have the same."""

    created: int
    """Unix time in seconds."""
    model: str
    """As it was asked for."""
    system_fingerprint: str
    """The version of the server."""


class OtherToken(ApiModel):
    """A token that might have come."""

    token: str
    """Its text; half a character is shown as such."""
    logprob: float
    """Natural logarithm of its probability, -9999 for none at all."""
    bytes: list[int]
    """Its bytes, which joined are the text."""


class Token(OtherToken):
    """A token of the answer."""

    top_logprobs: list[OtherToken]
    """The likeliest tokens in its place, as many as asked for."""


class LogProbs(ApiModel):
    """The tokens of an answer, or of a chunk of it."""

    content: list[Token]
    """In the order of the text."""
    refusal: None
    """Always null: models here refuse in their text."""


class Called(ApiModel):
    """A function that the model calls."""

    name: str
    """One of those asked with."""
    arguments: str
    """JSON as the model wrote it; it may not be what the function takes."""


class ToolCall(ApiModel):
    """A call of a tool."""

    id: str
    """To be given back as `tool_call_id` with the result."""
    type: Literal["function"]
    function: Called


class Answer(ApiModel):
    """The turn of the assistant."""

    role: Literal["assistant"]
    content: str | None
    """The text; null beside calls that came without one."""
    refusal: None
    """Always null."""
    tool_calls: list[ToolCall] | None = None
    """Left out when the model calls nothing."""


class ChatChoice(ApiModel):
    """One of `n` answers."""

    index: int
    """Its number, from 0."""
    message: Answer
    logprobs: LogProbs | None
    """null unless asked for."""
    finish_reason: Literal["stop", "length", "tool_calls"]
    """`stop`: the model ended, or a stop text came; `length`: there was no room for more."""


class ChatCompletion(AnswerObject):
    """The answer to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    """In the order of their numbers."""
    usage: Usage


class ToolCallDelta(ToolCall):
    """A call of a tool in a stream: it comes whole."""

    index: int
    """Its number within the answer, from 0."""


class Delta(ApiModel):
    """What a chunk adds to its answer; fields that it does not add to are left out."""

    role: Literal["assistant"] | None = None
    """In the first chunk of an answer."""
    content: str | None = None
    """Text to append."""
    refusal: None = None
    """Always null."""
    tool_calls: list[ToolCallDelta] | None = None
    """Calls, once the model has written them all."""


class ChunkChoice(ApiModel):
    """The next piece of one answer."""

    index: int
    """The number of the answer."""
    delta: Delta
    logprobs: LogProbs | None
    """Of the tokens that came with this piece; null unless asked for."""
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    """In the last piece of an answer, else null."""


class ChatCompletionChunk(AnswerObject):
    """The data of one server-sent event of a streamed chat. The event after the last one is `[DONE]`; a chunk
    with `error` in place of all this ends a stream that failed."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    """One, or none in the chunk that has the usage."""
    usage: Usage | None = None
    """With `stream_options.include_usage`: in a last chunk of its own, and null in the others."""


class TextLogProbs(ApiModel):
    """The tokens of a text, as parallel lists."""

    tokens: list[str]
    """Their texts."""
    token_logprobs: list[float | None]
    """Their log-probabilities; null for the first of an echoed prompt, which nothing stands before."""
    top_logprobs: list[dict[str, float] | None]
    """The likeliest tokens in the place of each, by text."""
    text_offset: list[int]
    """Where each begins in the text, in characters."""


class TextChoice(ApiModel):
    """One continuation; `n` of the first prompt come first."""

    index: int
    """Its number, from 0."""
    text: str
    """After the prompt itself with `echo`; the next piece of it in a stream."""
    logprobs: TextLogProbs | None
    """null unless asked for."""
    finish_reason: Literal["stop", "length"] | None
    """null in all pieces of a stream but the last."""


class TextCompletion(AnswerObject):
    """The continuation of one prompt or several. A stream sends objects of this form too, one an event."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    """In a stream one, or none in the chunk that has the usage."""
    usage: Usage | None = None
    """In a stream with `stream_options.include_usage` only: in a last chunk of its own, and null before."""
