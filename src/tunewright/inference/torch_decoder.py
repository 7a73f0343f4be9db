"""Decoding on the PyTorch engine, with the cache classes of transformers. generator.py finds it by its table.

B rows, T tokens, K tokens in play, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tunewright.engines.torch.device import raise_out_of_memory
from tunewright.engines.torch.export import load_adapter
from tunewright.engines.torch.load import load_model, set_attention
from tunewright.engines.torch.lora import add_adapter
from tunewright.engines.torch.precision import DTYPES, check_precision
from tunewright.errors import EngineError
from tunewright.inference.decoder import Decoder
from tunewright.models.adapter_files import read_adapter
from tunewright.models.arch import load_arch


def load_decoders(folder: Path, adapter: Path | None, *, device: str, dtype: str) -> Callable[[], Decoder]:
    """Load model and adapter; what is returned makes a decoder for each batch."""
    place = torch.device(device)
    check_precision(dtype, dtype, place)
    with raise_out_of_memory(place):
        model = load_model(folder, dtype=DTYPES[dtype], device=place)
        # The fused kernels of torch leave a soft cap out, and do so silently.
        if load_arch(folder).attention_soft_cap is None and getattr(model, "_supports_sdpa", False):
            set_attention(model, "sdpa")
        if adapter is not None:
            config = read_adapter(adapter).config
            add_adapter(model, config, seed=0)
            load_adapter(model, adapter, config)
            _store_as(model, DTYPES[dtype])
    return partial(TorchDecoder, model.requires_grad_(False).eval())


class TorchLogits:
    """Implements inference.decoder.Logits."""

    def __init__(self, logits_BV: torch.Tensor) -> None:
        self._logits_BV = logits_BV

    def likeliest(self) -> NDArray[np.int64]:
        return self._logits_BV.argmax(dim=-1).cpu().numpy()

    def top(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        vocabulary = self._logits_BV.shape[-1]
        values_BK, tokens_BK = self._logits_BV.float().topk(min(count or vocabulary, vocabulary), sorted=True)
        return values_BK.cpu().numpy(), tokens_BK.cpu().numpy()


class TorchDecoder:
    """Implements inference.decoder.Decoder: prompts are padded on the left."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes = inspect.signature(model.forward).parameters
        self._mask_BT = torch.empty(0)
        self._cache: Any = None

    def start(self, prompts: Sequence[Sequence[int]]) -> TorchLogits:
        width = max(len(prompt) for prompt in prompts)
        tokens = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._mask_BT = torch.tensor(mask, device=self._model.device)
        self._cache = None
        return self._feed(torch.tensor(tokens, device=self._model.device))

    def next(self, tokens_B: NDArray[np.int64]) -> TorchLogits:
        self._mask_BT = torch.nn.functional.pad(self._mask_BT, (0, 1), value=1)
        return self._feed(torch.from_numpy(tokens_B).to(self._model.device)[:, None])

    def keep(self, rows: Sequence[int]) -> None:
        # The cache was made in inference mode, and only there may it be changed.
        with torch.inference_mode():
            rows_B = torch.tensor(rows, device=self._model.device)
            self._mask_BT = self._mask_BT[rows_B]
            self._cache.batch_select_indices(rows_B)

    def _feed(self, tokens_BT: torch.Tensor) -> TorchLogits:
        inputs: dict[str, Any] = {"input_ids": tokens_BT, "attention_mask": self._mask_BT}
        if "position_ids" in self._takes:
            # A padded place gets position 0; nothing attends to it.
            positions_BT = (self._mask_BT.cumsum(dim=-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions_BT[:, -tokens_BT.shape[1] :]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        # Entered anew for each step: a generator that is not read to its end must not leave the mode on.
        with raise_out_of_memory(self._model.device), torch.inference_mode():
            output = self._model(**inputs, past_key_values=self._cache, use_cache=True)
            self._cache = output.past_key_values
            if self._cache is None:
                raise EngineError(
                    "the model keeps no key-value cache, without which nothing is generated",
                    got=type(self._model).__name__,
                    code="engine.no-cache",
                )
            return TorchLogits(output.logits[:, -1])


def _store_as(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Biases and modules trained in full are fp32 in an adapter; without autocast they must be as the base.
    LoRA itself converts its input."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" not in name:
            parameter.data = parameter.data.to(dtype)
