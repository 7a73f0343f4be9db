"""/v1/completions: go on with a text, or score one, without a chat template."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunewright.service.context import UserArg
from tunewright.service.inference.completion_answers import CompletionForm
from tunewright.service.inference.model_server import ModelServerArg, sampling_fields
from tunewright.service.inference.reply import reply
from tunewright.service.openapi import streamed
from tunewright.service.schemas.answers import TextCompletion
from tunewright.service.schemas.completions import (
    DEFAULT_TOKENS,
    CompletionRequest,
    check_completion,
)

router = APIRouter(prefix="/v1/completions", tags=["Completions"])
ANSWERS = streamed(TextCompletion, "The answer, or a stream of its pieces", TextCompletion)


@router.post("", response_model=None, responses=ANSWERS)
async def create(body: CompletionRequest, request: Request, key: UserArg, models: ModelServerArg) -> Response:
    """Go on with each prompt, as a whole or as a stream of chunks."""
    check_completion(body)
    prompts = body.prompt
    form = CompletionForm(
        model=body.model,
        prompts=len(prompts),
        answers=body.n or 1,
        log_probs=body.logprobs is not None,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    common = {
        **await models.prepare(key, body.model),
        **sampling_fields(body),
        "limit": DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens,
        "log_probs": body.logprobs,
        "echo": bool(body.echo),
    }
    asks = [
        {**common, "prompt": prompt, "first": place * form.answers} for place, prompt in enumerate(prompts)
    ]
    return await reply(request, models, asks, form=form, prompt_param="prompt", stream=bool(body.stream))
