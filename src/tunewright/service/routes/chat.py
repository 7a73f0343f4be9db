"""/v1/chat/completions: talk with a base model or a fine-tuned one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunewright.service.context import UserArg
from tunewright.service.faults import bad_value
from tunewright.service.inference.chat_answers import ChatForm
from tunewright.service.inference.grammars import grammar_fields, offered_tools
from tunewright.service.inference.model_server import ModelServerArg, sampling_fields
from tunewright.service.inference.reply import reply
from tunewright.service.openapi import streamed
from tunewright.service.schemas.answers import ChatCompletion, ChatCompletionChunk
from tunewright.service.schemas.chat import ChatMessage, ChatRequest, check_chat

router = APIRouter(prefix="/v1/chat/completions", tags=["Chat"])

ANSWERS = streamed(ChatCompletionChunk, "The answer, or a stream of its chunks", ChatCompletion)
_ROLES = {"developer": "system", "function": "tool"}


@router.post("", response_model=None, responses=ANSWERS)
async def create(body: ChatRequest, request: Request, key: UserArg, models: ModelServerArg) -> Response:
    """Answer a conversation, as a whole or as a stream of chunks."""
    check_chat(body)
    form = ChatForm(
        model=body.model,
        answers=body.n or 1,
        log_probs=bool(body.logprobs),
        one_call=body.parallel_tool_calls is False,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    model = await models.prepare(key, body.model)
    asks = [_ask(body, model)]
    return await reply(request, models, asks, form=form, prompt_param="messages", stream=bool(body.stream))


def _ask(body: ChatRequest, model: Mapping[str, Any]) -> dict[str, Any]:
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return {
        **model,
        **sampling_fields(body),
        "messages": [_message(message, place) for place, message in enumerate(body.messages)],
        "tools": [json.dumps(tool.model_dump(exclude_none=True)) for tool in offered_tools(body)],
        "template_options": body.chat_template_kwargs or {},
        "grammar": grammar_fields(body),
        "limit": limit,
        "log_probs": (body.top_logprobs or 0) if body.logprobs else None,
    }


def _message(message: ChatMessage, place: int) -> dict[str, Any]:
    where = f"messages.{place}"
    fields: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role),
        "content": _text(message, where),
    }
    calls = [
        {"name": call.function.name, "arguments": call.function.arguments, "id": call.id}
        for call in message.tool_calls or ()
    ]
    if message.function_call is not None:
        calls.append({"name": message.function_call.name, "arguments": message.function_call.arguments})
    if calls:
        fields["tool_calls"] = calls
    if message.role == "tool" and message.tool_call_id is None:
        raise bad_value("A message of role 'tool' needs a 'tool_call_id'", f"{where}.tool_call_id")
    for name in ("name", "tool_call_id"):
        if getattr(message, name) is not None:
            fields[name] = getattr(message, name)
    return fields


def _text(message: ChatMessage, where: str) -> str:
    if message.content is None:
        if message.role != "assistant":
            raise bad_value(f"A message of role '{message.role}' needs a 'content'", f"{where}.content")
        return ""
    for place, part in enumerate(message.content):
        if part.type not in ("text", "refusal"):
            param = f"{where}.content.{place}.type"
            raise bad_value(f"Only text can be read, not '{part.type}'", param, "unsupported_value")
    return "".join(part.text or part.refusal or "" for part in message.content)
