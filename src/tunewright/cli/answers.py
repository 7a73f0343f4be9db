"""What `generate` and `chat` share: options, loading, and printing an answer while it is made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunewright.data.templates import ChatTokenizer
    from tunewright.inference.generator import Generator
    from tunewright.inference.sampling import SamplingOptions

Model = Annotated[
    str, typer.Argument(help="Hub id, model folder, builtin:tiny, export folder or run folder.")
]
Adapter = Annotated[Path | None, typer.Option(help="PEFT adapter folder, or a run folder, on top of MODEL.")]
System = Annotated[str | None, typer.Option(help="System message.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token always.")]
TopP = Annotated[float, typer.Option(help="Draw from the fewest tokens that hold this probability.")]
TopK = Annotated[int, typer.Option(min=0, help="Draw from this many likeliest tokens; 0 is all.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
Engine = Annotated[str, typer.Option(help="auto, torch or mlx.")]
Device = Annotated[str, typer.Option(help="auto or cpu; torch: mps, cuda, cuda:N; mlx: metal, cuda.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]


@dataclass(frozen=True, slots=True)
class Speaker:
    """A loaded model with the tokenizer that goes with it."""

    generator: Generator
    tokenizer: ChatTokenizer

    def answer(self, prompt_ids: Sequence[int], options: SamplingOptions) -> str:
        """Print the answer as it comes, with a line end; returns its text."""
        text = ""
        stream = self.generator.stream(prompt_ids, options, self.tokenizer.stop_ids)
        for piece in stream_text(stream, self.tokenizer):
            sys.stdout.write(piece)
            sys.stdout.flush()
            text += piece
        sys.stdout.write("\n")
        sys.stdout.flush()
        return text


def load_speaker(model: str, adapter: Path | None, *, engine: str, device: str, dtype: str) -> Speaker:
    """Load what MODEL and --adapter name; warnings go to stderr."""
    from tunewright.data.templates import load_tokenizer
    from tunewright.models.served import resolve_served

    served = resolve_served(model, adapter)
    for warning in served.model.warnings:
        typer.echo(f"warning: {warning}", err=True)
    tokenizer = load_tokenizer(served.tokenizer_folder, None)
    # Last, because it takes seconds to load an engine, and a bad name should be told at once.
    from tunewright.inference.generator import load_generator

    generator = load_generator(served.model, served.adapter, engine=engine, device=device, dtype=dtype)
    return Speaker(generator, tokenizer)


def stream_text(tokens: Iterator[int], tokenizer: ChatTokenizer) -> Iterator[str]:
    """Pieces of text that joined are the text of all tokens; a character of several tokens comes whole."""
    from tunewright.inference.detokenize import TextStream

    stream = TextStream(tokenizer.decode)
    yield from filter(None, map(stream.push, tokens))
    if rest := stream.rest():
        yield rest
