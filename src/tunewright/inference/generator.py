"""Answers from a model, with or without an adapter: one streamed, or many in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from tunewright.engines.registry import detect_device, resolve_engine
from tunewright.errors import ConfigError
from tunewright.inference.batch import Answer, Batch
from tunewright.inference.decoder import Base, Decoders
from tunewright.inference.sampling import Sampler, SamplingOptions
from tunewright.models.arch import load_arch
from tunewright.models.resolve import ModelFiles

BASES: dict[str, str] = {
    "torch": "tunewright.inference.torch_base",
    "mlx": "tunewright.inference.mlx_base",
}
"""Engine → the module whose `load_base` loads a model for it; imported only when asked for."""

BATCH_TOKENS = 16_384
"""Most tokens of one batch, padding and answers included; bounds the memory of the key-value cache."""


def load_generator(
    model: ModelFiles,
    adapter: Path | None,
    *,
    engine: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> Generator:
    """Load the model, and on top of it the PEFT adapter in folder `adapter`. Options and errors are those of
    load_base; raises ModelError for a bad adapter too."""
    base = load_base(model, engine=engine, device=device, dtype=dtype)
    decoders = base.decoders() if adapter is None else base.adapted(adapter)[0]
    return Generator(decoders, load_arch(model.folder).max_positions)


def load_base(model: ModelFiles, *, engine: str = "auto", device: str = "auto", dtype: str = "auto") -> Base:
    """Load a model that adapters can go on top of.

    dtype: fp32, bf16, fp16; `auto` is bf16 on a GPU that has it and fp32 elsewhere. Raises ModelError for a
    bad model, EngineError for an engine that is not installed or what the device lacks.
    """
    name = resolve_engine(engine)
    facts = detect_device(name, device)
    if dtype == "auto":
        dtype = "bf16" if facts.device != "cpu" and "bf16" in facts.dtypes else "fp32"
    return import_module(BASES[name]).load_base(model.folder, device=facts.device, dtype=dtype)


class Generator:
    """A loaded model that answers. Token ids in, token ids out; the stop token is not part of an answer."""

    def __init__(self, decoders: Decoders, max_positions: int | None) -> None:
        self._decoders = decoders
        self._max_positions = max_positions

    def stream(
        self, prompt_ids: Sequence[int], options: SamplingOptions, stop_ids: Sequence[int]
    ) -> Iterator[int]:
        """Tokens of one answer as they come. Raises ConfigError for a prompt that is empty or too long."""
        batch = Batch(self._decoders)
        answer = self._answer(prompt_ids, options, 0, frozenset(stop_ids))
        steps = batch.add([answer])
        while steps:
            for step in steps:
                if step.token is not None:
                    yield step.token
            steps = batch.step()

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], options: SamplingOptions, stop_ids: Sequence[int]
    ) -> list[list[int]]:
        """The answer to each prompt, in the order of the prompts.

        Prompts of like length go through the model together. Raises ConfigError for a prompt that is empty or
        too long, before anything is computed.
        """
        stops = frozenset(stop_ids)
        answers = [self._answer(prompt, options, row, stops) for row, prompt in enumerate(prompts)]
        for rows in _batches([len(prompt) for prompt in prompts], options.max_new_tokens):
            batch = Batch(self._decoders)
            steps = batch.add([answers[row] for row in rows])
            while steps:
                steps = batch.step()
        return [answer.tokens for answer in answers]

    def _answer(
        self, prompt: Sequence[int], options: SamplingOptions, number: int, stop_ids: frozenset[int]
    ) -> Answer:
        limit = min(options.max_new_tokens, answer_room(len(prompt), self._max_positions))
        return Answer(prompt, Sampler(options, number), limit, stop_ids)


def answer_room(prompt_tokens: int, max_positions: int | None) -> int:
    """How many tokens fit behind a prompt. Raises ConfigError for a prompt that is empty or too long."""
    if not prompt_tokens:
        raise ConfigError("the prompt is empty", where="prompt", code="config.empty-prompt")
    if max_positions is None:
        return sys.maxsize
    room = max_positions - prompt_tokens
    if room < 1:
        raise ConfigError(
            "the prompt leaves no room for an answer",
            where="prompt",
            got=f"{prompt_tokens} tokens",
            expected=f"fewer than {max_positions}",
            code="config.long-prompt",
        )
    return room


def _batches(lengths: Sequence[int], new_tokens: int) -> Iterator[list[int]]:
    """Rows in order of their length, cut so that rows x (longest + new tokens) stays below BATCH_TOKENS."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and (len(batch) + 1) * (lengths[row] + new_tokens) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
