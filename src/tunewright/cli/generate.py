"""`tunewright generate`: one answer to one prompt, streamed to stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli import answers

if TYPE_CHECKING:
    from tunewright.data.templates import ChatTokenizer


def command(  # noqa: PLR0913 - one parameter an option
    model: answers.Model,
    adapter: answers.Adapter = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="File with the prompt; - reads stdin.")] = None,
    system: answers.System = None,
    max_new_tokens: answers.MaxNewTokens = 256,
    temperature: answers.Temperature = 0.0,
    top_p: answers.TopP = 1.0,
    top_k: answers.TopK = 0,
    seed: answers.Seed = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, no chat template.")] = False,
    engine: answers.Engine = "auto",
    device: answers.Device = "auto",
    dtype: answers.Dtype = "auto",
) -> None:
    """Answer one prompt with a model, an export or a run.

    Prints the answer to stdout as it is made. The likeliest answer by default; --temperature draws.
    """
    from tunewright.inference.sampling import SamplingOptions

    text = _read_prompt(prompt, prompt_file)
    if raw and system is not None:
        raise typer.BadParameter("--raw has no system message")
    options = SamplingOptions(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    speaker = answers.load_speaker(model, adapter, engine=engine, device=device, dtype=dtype)
    speaker.answer(_encode(speaker.tokenizer, text, system, raw=raw), options)


def _encode(tokenizer: ChatTokenizer, text: str, system: str | None, *, raw: bool) -> list[int]:
    from tunewright.types import Message

    if raw:
        return tokenizer.encode_plain(text)
    messages = [Message("system", system)] if system is not None else []
    return tokenizer.encode_prompt([*messages, Message("user", text)])


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if (prompt is None) == (file is None):
        raise typer.BadParameter("give either --prompt or --prompt-file")
    if file is None:
        return prompt or ""
    from tunewright.errors import ConfigError

    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the prompt cannot be read: {error}", where=f"--prompt-file {file}", code="config.bad-prompt"
        ) from error
