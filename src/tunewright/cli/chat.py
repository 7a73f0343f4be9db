"""`tunewright chat`: a conversation with a model, in a terminal or through a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from tunewright.cli import answers

if TYPE_CHECKING:
    from tunewright.inference.sampling import SamplingOptions
    from tunewright.types import Message


def command(  # noqa: PLR0913 - one parameter an option
    model: answers.Model,
    adapter: answers.Adapter = None,
    system: answers.System = None,
    max_new_tokens: answers.MaxNewTokens = 512,
    temperature: answers.Temperature = 0.7,
    top_p: answers.TopP = 0.95,
    top_k: answers.TopK = 0,
    seed: answers.Seed = 0,
    engine: answers.Engine = "auto",
    device: answers.Device = "auto",
    dtype: answers.Dtype = "auto",
) -> None:
    """Talk with a model, an export or a run. /clear starts anew, /exit (or Ctrl-D) ends.

    Answers are drawn with a little chance; --temperature 0 gives the likeliest one always.
    """
    from tunewright.inference.sampling import SamplingOptions

    options = SamplingOptions(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    speaker = answers.load_speaker(model, adapter, engine=engine, device=device, dtype=dtype)
    typer.echo(f"talking with {model}; /clear starts anew, /exit ends", err=True)
    _converse(speaker, _opening(system), options)


def _converse(speaker: answers.Speaker, opening: list[Message], options: SamplingOptions) -> None:
    from dataclasses import replace

    from tunewright.errors import TunewrightError
    from tunewright.types import Message

    messages = list(opening)
    while (line := _read_line()) is not None:
        if line == "/exit":
            return
        if line == "/clear":
            messages = list(opening)
            typer.echo("cleared", err=True)
            continue
        if not line:
            continue
        asked = [*messages, Message("user", line)]
        try:
            text = speaker.answer(speaker.tokenizer.encode_prompt(asked), options)
        except TunewrightError as error:
            if not sys.stdin.isatty():
                raise
            typer.echo(f"error: {error}", err=True)
            continue
        messages = [*asked, Message("assistant", text)]
        # The same question asked again should not draw the very same numbers.
        options = replace(options, seed=(options.seed + 1) % 2**64)


def _read_line() -> str | None:
    """The next line without surrounding space; None at the end of the input."""
    if sys.stdin.isatty():
        try:
            return input("> ").strip()
        except EOFError:
            typer.echo(err=True)
            return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def _opening(system: str | None) -> list[Message]:
    from tunewright.types import Message

    return [Message("system", system)] if system is not None else []
