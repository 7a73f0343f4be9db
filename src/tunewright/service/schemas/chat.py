"""What a chat call may say. Fields are OpenAI's; what cannot be done here is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tunewright.service.faults import bad_value
from tunewright.service.schemas.structured import (
    ResponseFormat,
    Tool,
    ToolChoice,
    check_response_format,
    check_tools,
)


def _as_list(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise ValueError("expected a text, or a list of up to four")
    return [value] if isinstance(value, str) else cast(Any, value)


Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = Annotated[
    list[Stop], Field(max_length=4), BeforeValidator(_as_list, json_schema_input_type=str | list[str])
]
Bias = dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]]
Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


class _Known(BaseModel):
    """Clients send back the messages that they were sent, with fields that mean nothing here."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class Part(_Known):
    """A piece of a message. Only text is there."""

    type: str
    """`text` or `refusal`."""
    text: str | None = None
    """The text."""
    refusal: str | None = None


def _as_parts(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise ValueError("expected a text, or a list of parts")
    return [{"type": "text", "text": value}] if isinstance(value, str) else cast(Any, value)


Content = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]


class Function(_Known):
    """The function of a tool call."""

    name: str
    arguments: str


class ToolCallIn(_Known):
    """A call that the assistant made before."""

    id: str | None = None
    type: str = "function"
    function: Function


class ChatMessage(_Known):
    """One turn of the conversation so far."""

    role: Role
    """`developer` is taken for `system`, `function` for `tool`."""
    content: Content | None = None
    """The text, whole or in parts."""
    name: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    """Calls that the assistant made in this turn."""
    function_call: Function | None = None
    tool_call_id: str | None = None
    """Which call a `tool` message answers."""


class StreamOptions(_Known):
    """include_usage: one more chunk with token counts at the end."""

    include_usage: bool | None = None
    """One more chunk at the end, with the counts of tokens."""
    include_obfuscation: bool | None = None
    """Accepted, changes nothing."""


class Sampling(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A model of GET /v1/models."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many answers."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the likeliest token always; 1 if left out."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the fewest tokens that hold this probability; 1 if left out."""
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    """Draw from so many likeliest tokens; 0, -1 or left out: from all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw from tokens that are at least so many times as likely as the likeliest; 0 if left out."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed gives the same answer."""
    stop: Stops | None = None
    """Up to four texts; the answer ends before the first of them."""
    presence_penalty: Penalty | None = None
    """Taken from the score of each token that the answer has already."""
    frequency_penalty: Penalty | None = None
    """The same for each time that the answer has it."""
    logit_bias: Bias | None = None
    """Added to the scores of tokens, by token id."""
    stream: bool | None = None
    """Send the answer in pieces as it is made, as server-sent events."""
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Accepted, changes nothing."""


class ChatRequest(Sampling):
    """The body of a chat call."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of one answer."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of max_completion_tokens."""
    logprobs: bool | None = None
    """Tell the log-probability of each token."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many likeliest tokens to tell with each; needs logprobs."""
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    """Functions that the model may call, where its template shows them."""
    tool_choice: ToolChoice | None = None
    """`auto`, `none`, `required`, the function to call, or some of the tools."""
    parallel_tool_calls: bool | None = None
    """false: one call in an answer at most."""
    response_format: ResponseFormat | None = None
    """`text`, `json_object`, or a JSON schema that the answer keeps to."""
    chat_template_kwargs: dict[str, Any] | None = None
    """More variables for the model's chat template, such as `enable_thinking`."""
    modalities: list[str] | None = None
    """Only `["text"]` is there."""
    audio: Any = None
    """Not there: refused unless null."""
    web_search_options: Any = None
    """Not there: refused unless null."""
    functions: Any = None
    """Not there: refused unless null."""
    function_call: Any = None
    """Not there: refused unless null."""
    prediction: Any = None
    """Accepted, changes nothing."""
    store: bool | None = None
    """Accepted, changes nothing."""
    metadata: dict[str, Any] | None = None
    """Accepted, changes nothing."""
    moderation: Any = None
    """Accepted, changes nothing."""
    safety_identifier: str | None = None
    """Accepted, changes nothing."""
    service_tier: str | None = None
    """Accepted, changes nothing."""
    verbosity: str | None = None
    """Accepted, changes nothing."""
    reasoning_effort: str | None = None
    """Accepted, changes nothing."""
    prompt_cache_key: str | None = None
    """Accepted, changes nothing."""
    prompt_cache_retention: str | None = None
    """Accepted, changes nothing."""
    prompt_cache_options: Any = None
    """Accepted, changes nothing."""


RESERVED_VARIABLES = frozenset(
    [
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "bos_token",
        "eos_token",
        "kwargs",
        "self",
    ]
)
"""What the server itself hands to a chat template."""
_INSTEAD = {"functions": "use 'tools'", "function_call": "use 'tool_choice'"}


def check_chat(body: ChatRequest) -> None:
    """Raise ApiError 400 for what OpenAI knows and this server cannot do."""
    for name in ("audio", "web_search_options", "functions", "function_call"):
        if getattr(body, name) is not None:
            hint = _INSTEAD.get(name, "leave it out")
            message = f"'{name}' is not available on this server; {hint}"
            raise bad_value(message, name, "unsupported_parameter")
    if body.modalities not in (None, ["text"]):
        raise bad_value("Only the modality 'text' is available", "modalities", "unsupported_value")
    check_response_format(body.response_format)
    check_tools(body.tools, body.tool_choice)
    for name in body.chat_template_kwargs or ():
        if name in RESERVED_VARIABLES or not name.isidentifier():
            message = f"The chat template's '{name}' cannot be set; leave it out"
            raise bad_value(message, f"chat_template_kwargs.{name}")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_value("'top_logprobs' needs 'logprobs' to be true", "top_logprobs")
    check_stream(body)


def check_stream(body: Sampling) -> None:
    """Raise ApiError 400 for stream options without a stream."""
    if body.stream_options is not None and not body.stream:
        raise bad_value("'stream_options' needs 'stream' to be true", "stream_options")
