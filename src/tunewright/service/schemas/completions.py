"""What a call of the older completions API may say: a text to go on with, without a chat template."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field

from tunewright.service.faults import bad_value
from tunewright.service.schemas.chat import Sampling, check_stream

Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


def _as_list(value: Any) -> Any:
    """One prompt stands for a list of one."""
    if isinstance(value, str) or _are_tokens(value):
        return [value]
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    if not all(isinstance(item, str) or _are_tokens(item) for item in items):
        raise ValueError("expected a text, tokens (numbers from 0), or a list of these")
    return items


def _are_tokens(value: object) -> bool:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return bool(items) and all(type(item) is int and 0 <= item < 2**31 for item in items)


Prompts = Annotated[
    list[str | Tokens],
    Field(min_length=1, max_length=128),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]

DEFAULT_TOKENS = 16


class CompletionRequest(Sampling):
    """The body of a completions call."""

    prompt: Prompts
    """A text, a list of texts, tokens, or a list of lists of tokens."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of one answer; 16 if left out. 0 with `echo` and `logprobs` scores the prompt."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """How many likeliest tokens to tell with each."""
    echo: bool | None = None
    """Give the prompt back before the answer."""
    best_of: Annotated[int, Field(ge=0, le=20)] | None = None
    """As many as `n`, or left out."""
    suffix: str | None = None
    """Not there: refused unless null."""


def check_completion(body: CompletionRequest) -> None:
    """Raise ApiError 400 for what OpenAI knows and this server cannot do."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise bad_value("'best_of' may only be equal to 'n'", "best_of", "unsupported_value")
    if body.suffix:
        raise bad_value(
            "'suffix' is not available on this server; leave it out", "suffix", "unsupported_parameter"
        )
    if body.max_tokens == 0 and not body.echo:
        raise bad_value("'max_tokens' may be 0 with 'echo' only", "max_tokens")
    check_stream(body)
