"""A base model on the PyTorch engine, and adapters on top of it that share its weights."""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tunewright.engines.torch.device import raise_out_of_memory
from tunewright.engines.torch.export import load_adapter
from tunewright.engines.torch.load import load_model, set_attention
from tunewright.engines.torch.lora import add_adapter
from tunewright.engines.torch.precision import DTYPES, check_precision
from tunewright.errors import EngineError
from tunewright.inference.decoder import Decoders
from tunewright.inference.torch_decoder import TorchDecoder
from tunewright.inference.torch_rows import use_few_rows
from tunewright.models.adapter_files import read_adapter
from tunewright.models.arch import load_arch


def load_base(folder: Path, *, device: str, dtype: str) -> TorchBase:
    """Load a model for answering. Raises ModelError, EngineError and EngineOutOfMemory."""
    place = torch.device(device)
    check_precision(dtype, dtype, place)
    with raise_out_of_memory(place):
        model = load_model(folder, dtype=DTYPES[dtype], device=place)
        # The fused kernels of torch leave a soft cap out, and do so silently.
        if load_arch(folder).attention_soft_cap is None and getattr(model, "_supports_sdpa", False):
            # Some say so and take no function by name; they stay with their own.
            with suppress(EngineError):
                set_attention(model, "sdpa")
        use_few_rows(model)
    return TorchBase(model.requires_grad_(False).eval(), DTYPES[dtype])


class TorchBase:
    """Implements inference.decoder.Base."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self._model = model
        self._dtype = dtype
        self.bytes = sum(tensor.nbytes for tensor in _tensors(model))

    def decoders(self) -> Decoders:
        return partial(TorchDecoder, self._model)

    def adapted(self, adapter: Path) -> tuple[Decoders, int]:
        config = read_adapter(adapter).config
        with raise_out_of_memory(self._model.device):
            model = _share(self._model)
            shared = {tensor.data_ptr() for tensor in _tensors(self._model)}
            add_adapter(model, config, seed=0)
            for parameter in model.parameters():
                # A bias that the adapter replaces: the base keeps its own.
                if parameter.requires_grad and parameter.data_ptr() in shared:
                    parameter.data = parameter.data.clone()
            load_adapter(model, adapter, config)
            _store_as(model, self._dtype)
        model.requires_grad_(False).eval()
        own = sum(tensor.nbytes for tensor in _tensors(model) if tensor.data_ptr() not in shared)
        return partial(TorchDecoder, model), own


def _share(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules anew, with the very same numbers in memory."""
    shared: dict[int, object] = {
        id(parameter): torch.nn.Parameter(parameter.data, requires_grad=False)
        for parameter in model.parameters()
    }
    shared.update((id(buffer), buffer) for buffer in model.buffers())
    return copy.deepcopy(model, shared)


def _tensors(model: PreTrainedModel) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _store_as(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Biases and modules trained in full are fp32 in an adapter; without autocast they must be as the base.
    LoRA itself converts its input."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" not in name:
            parameter.data = parameter.data.to(dtype)
