"""Answers from a model, with or without an adapter: one streamed, or many in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from tunewright.engines.registry import detect_device, resolve_engine
from tunewright.errors import ConfigError
from tunewright.inference.decoder import Decoder
from tunewright.inference.sampling import Sampler, SamplingOptions
from tunewright.models.arch import load_arch
from tunewright.models.resolve import ModelFiles

DECODERS: dict[str, str] = {
    "torch": "tunewright.inference.torch_decoder",
    "mlx": "tunewright.inference.mlx_decoder",
}
"""Engine → the module whose `load_decoders` loads a model for it; imported only when asked for."""

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
    """Load the model, and on top of it the PEFT adapter in folder `adapter`.

    dtype: fp32, bf16, fp16; `auto` is bf16 on a GPU that has it and fp32 elsewhere. Raises ModelError for a
    bad model or adapter, EngineError for an engine that is not installed or what the device lacks.
    """
    name = resolve_engine(engine)
    facts = detect_device(name, device)
    if dtype == "auto":
        dtype = "bf16" if facts.device != "cpu" and "bf16" in facts.dtypes else "fp32"
    module = import_module(DECODERS[name])
    decoders = module.load_decoders(model.folder, adapter, device=facts.device, dtype=dtype)
    return Generator(decoders, load_arch(model.folder).max_positions)


class Generator:
    """A loaded model that answers. Token ids in, token ids out; the stop token is not part of an answer."""

    def __init__(self, decoders: Callable[[], Decoder], max_positions: int | None) -> None:
        self._decoders = decoders
        self._max_positions = max_positions

    def stream(
        self, prompt_ids: Sequence[int], options: SamplingOptions, stop_ids: Sequence[int]
    ) -> Iterator[int]:
        """Tokens of one answer as they come. Raises ConfigError for a prompt that is empty or too long."""
        limit = self._room(prompt_ids, options)
        sampler, decoder = Sampler(options, [0]), self._decoders()
        logits = decoder.start([prompt_ids])
        for count in range(1, limit + 1):
            token_B = sampler.choose(logits, [0])
            token = int(token_B[0])
            if token in stop_ids:
                return
            yield token
            if count < limit:
                logits = decoder.next(token_B)

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], options: SamplingOptions, stop_ids: Sequence[int]
    ) -> list[list[int]]:
        """The answer to each prompt, in the order of the prompts.

        Prompts of like length go through the model together. Raises ConfigError for a prompt that is empty or
        too long, before anything is computed.
        """
        limits = [self._room(prompt, options) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        for rows in _batches([len(prompt) for prompt in prompts], options.max_new_tokens):
            self._answer(rows, prompts, limits, Sampler(options, rows), frozenset(stop_ids), answers)
        return answers

    def _answer(
        self,
        rows: list[int],
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        sampler: Sampler,
        stop_ids: frozenset[int],
        answers: list[list[int]],
    ) -> None:
        decoder = self._decoders()
        logits = decoder.start([prompts[row] for row in rows])
        while True:
            tokens_B = sampler.choose(logits, rows)
            going: list[int] = []
            for place, (row, token) in enumerate(zip(rows, tokens_B.tolist(), strict=True)):
                if token not in stop_ids:
                    answers[row].append(token)
                    if len(answers[row]) < limits[row]:
                        going.append(place)
            if not going:
                return
            if len(going) < len(rows):
                rows, tokens_B = [rows[place] for place in going], tokens_B[going]
                decoder.keep(going)
            logits = decoder.next(tokens_B)

    def _room(self, prompt: Sequence[int], options: SamplingOptions) -> int:
        """How many tokens the answer may have."""
        if not prompt:
            raise ConfigError("the prompt is empty", where="prompt", code="config.empty-prompt")
        if self._max_positions is None:
            return options.max_new_tokens
        room = self._max_positions - len(prompt)
        if room < 1:
            raise ConfigError(
                "the prompt leaves no room for an answer",
                where="prompt",
                got=f"{len(prompt)} tokens",
                expected=f"fewer than {self._max_positions}",
                code="config.long-prompt",
            )
        return min(options.max_new_tokens, room)


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
