"""What a chat call may say. Fields are OpenAI's; what cannot be done here is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tunewright.service.faults import bad_value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = Annotated[
    list[Stop], Field(max_length=4), BeforeValidator(_as_list, json_schema_input_type=str | list[str])
]
Bias = dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]]
Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


class _Known(BaseModel):
    """Clients send back the messages that they were sent, with fields that mean nothing here."""

    model_config = ConfigDict(extra="ignore")


class Part(_Known):
    """A piece of a message. Only text is there."""

    type: str
    text: str | None = None
    refusal: str | None = None


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


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
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    function_call: Function | None = None
    tool_call_id: str | None = None


class ToolFunction(_Known):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Known):
    """A tool that the model may use."""

    type: str
    function: ToolFunction | None = None


class ResponseFormat(_Known):
    """The form of the answer. Only `text` is there."""

    type: str


class StreamOptions(_Known):
    """include_usage: one more chunk with token counts at the end."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A model of GET /v1/models."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many answers."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the likeliest token always; 1 if left out."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed gives the same answer."""
    stop: Stops | None = None
    """Up to four texts; the answer ends before the first of them."""
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class ChatRequest(Sampling):
    """The body of a chat call."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of one answer."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of max_completion_tokens."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many likeliest tokens to tell with each; needs logprobs."""
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Any = None
    """`auto` or `none`."""
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    functions: Any = None
    function_call: Any = None
    prediction: Any = None
    """This and what follows is accepted and changes nothing."""
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    moderation: Any = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    verbosity: str | None = None
    reasoning_effort: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None


def check_chat(body: ChatRequest) -> None:
    """Raise ApiError 400 for what OpenAI knows and this server cannot do."""
    for name in ("audio", "web_search_options", "functions", "function_call"):
        if getattr(body, name) is not None:
            raise bad_value(f"'{name}' is not available on this server", name, "unsupported_parameter")
    if body.modalities not in (None, ["text"]):
        raise bad_value("Only the modality 'text' is available", "modalities", "unsupported_value")
    if body.response_format is not None and body.response_format.type != "text":
        message = "Only the response format 'text' is available; ask for JSON in the prompt"
        raise bad_value(message, "response_format", "unsupported_value")
    if body.tool_choice not in (None, "auto", "none"):
        raise bad_value("'tool_choice' may be 'auto' or 'none'", "tool_choice", "unsupported_value")
    for place, tool in enumerate(body.tools or ()):
        if tool.type != "function" or tool.function is None:
            message = "Only tools of type 'function' are available"
            raise bad_value(message, f"tools.{place}", "unsupported_value")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_value("'top_logprobs' needs 'logprobs' to be true", "top_logprobs")
    check_stream(body)


def check_stream(body: Sampling) -> None:
    """Raise ApiError 400 for stream options without a stream."""
    if body.stream_options is not None and not body.stream:
        raise bad_value("'stream_options' needs 'stream' to be true", "stream_options")
