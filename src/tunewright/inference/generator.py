"""Answers from a model, with or without an adapter: one streamed, or many in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from tunewright.engines.torch.device import detect_device, raise_out_of_memory
from tunewright.engines.torch.export import load_adapter
from tunewright.engines.torch.load import load_model, set_attention
from tunewright.engines.torch.lora import add_adapter
from tunewright.engines.torch.precision import DTYPES, check_precision
from tunewright.errors import ConfigError
from tunewright.inference.decoder import Decoder
from tunewright.inference.sampling import Sampler, SamplingOptions
from tunewright.models.adapter_files import read_adapter
from tunewright.models.arch import Arch, load_arch
from tunewright.models.resolve import ModelFiles

BATCH_TOKENS = 16_384
"""Most tokens of one batch, padding and answers included; bounds the memory of the key-value cache."""

_Input = TypeVar("_Input")


def load_generator(
    model: ModelFiles, adapter: Path | None, *, device: str = "auto", dtype: str = "auto"
) -> Generator:
    """Load the model, and on top of it the PEFT adapter in folder `adapter`.

    dtype: fp32, bf16, fp16; `auto` is bf16 on a GPU that has it and fp32 elsewhere. Raises ModelError for a
    bad model or adapter, EngineError for what the device lacks.
    """
    facts = detect_device(device)
    place = torch.device(facts.device)
    if dtype == "auto":
        dtype = "bf16" if place.type != "cpu" and "bf16" in facts.dtypes else "fp32"
    check_precision(dtype, dtype, place)
    arch = load_arch(model.folder)
    with raise_out_of_memory(place):
        base = load_model(model.folder, dtype=DTYPES[dtype], device=place)
        # The fused kernels of torch leave a soft cap out, and do so silently.
        if arch.attention_soft_cap is None and getattr(base, "_supports_sdpa", False):
            set_attention(base, "sdpa")
        if adapter is not None:
            config = read_adapter(adapter).config
            add_adapter(base, config, seed=0)
            load_adapter(base, adapter, config)
            _store_as(base, DTYPES[dtype])
        return Generator(base.requires_grad_(False).eval(), arch)


class Generator:
    """A loaded model that answers. Token ids in, token ids out; the stop token is not part of an answer."""

    def __init__(self, model: PreTrainedModel, arch: Arch) -> None:
        self._model = model
        self._max_positions = arch.max_positions

    def stream(
        self, prompt_ids: Sequence[int], options: SamplingOptions, stop_ids: Sequence[int]
    ) -> Iterator[int]:
        """Tokens of one answer as they come. Raises ConfigError for a prompt that is empty or too long."""
        limit = self._room(prompt_ids, options)
        sampler, decoder = Sampler(options, [0]), Decoder(self._model, pad_id=0)
        logits_BV = self._run(decoder.start, [prompt_ids])
        for count in range(1, limit + 1):
            token_B = sampler.choose(logits_BV, [0])
            token = int(token_B.item())
            if token in stop_ids:
                return
            yield token
            if count < limit:
                logits_BV = self._run(decoder.next, token_B)

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
        decoder = Decoder(self._model, pad_id=0)
        logits_BV = self._run(decoder.start, [prompts[row] for row in rows])
        while True:
            tokens_B = sampler.choose(logits_BV, rows)
            going: list[int] = []
            for place, (row, token) in enumerate(zip(rows, tokens_B.tolist(), strict=True)):
                if token not in stop_ids:
                    answers[row].append(token)
                    if len(answers[row]) < limits[row]:
                        going.append(place)
            if not going:
                return
            if len(going) < len(rows):
                places_B = torch.tensor(going, device=tokens_B.device)
                rows, tokens_B = [rows[place] for place in going], tokens_B[places_B]
                decoder.keep(places_B)
            logits_BV = self._run(decoder.next, tokens_B)

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

    def _run(self, step: Callable[[_Input], torch.Tensor], given: _Input) -> torch.Tensor:
        # Entered anew for each step: a generator that is not read to its end must not leave the mode on.
        with raise_out_of_memory(self._model.device), torch.inference_mode():
            return step(given)


def _store_as(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Biases and modules trained in full are fp32 in an adapter; without autocast they must be as the base.
    LoRA itself converts its input."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" not in name:
            parameter.data = parameter.data.to(dtype)


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
