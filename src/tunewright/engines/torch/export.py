"""Servable models: the adapter in PEFT format, or merged weights, each with a certificate of the proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tunewright.config.schema import AdapterConfig
from tunewright.engines.adapter_folder import export_arrays, read_start
from tunewright.engines.batches import Recent
from tunewright.engines.model_folder import write_model
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.arrays import to_array, to_tensor
from tunewright.engines.torch.certificate import certify_merge, log_probs
from tunewright.engines.torch.load import vocabulary_size
from tunewright.engines.torch.lora import LoraLinear, lora_layers
from tunewright.engines.torch.precision import DTYPES
from tunewright.types import Array


def export_adapter(model: PreTrainedModel, spec: EngineSpec, folder: Path) -> Mapping[str, object]:
    """Write what trains as an adapter folder and read it back. Raises EngineError when the bytes differ."""
    arrays = {name: to_array(parameter) for name, parameter in _trained(model)}
    return export_arrays(folder, arrays, spec, [name for name, _ in lora_layers(model)])


def load_adapter(model: PreTrainedModel, folder: Path, config: AdapterConfig) -> None:
    """Start from a PEFT adapter. config: what `model` was given. Raises ModelError unless names and shapes
    fit what trains, both ways, and the adapter was trained under the same scale."""
    trained = dict(_trained(model))
    found = read_start(folder, config, {name: tuple(p.shape) for name, p in trained.items()})
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(to_tensor(found[name]))


def export_model(
    model: PreTrainedModel, spec: EngineSpec, folder: Path, recent: Recent
) -> Mapping[str, object]:
    """Write all weights, adapters merged in, as safetensors shards with config.json, then load and compare.

    Weights are stored in `spec.dtype`. Raises EngineError when log-probabilities differ beyond the bound.
    """
    rows = recent.rows(vocabulary_size(model))
    reference = log_probs(model, rows, spec.precision)
    weights = MergedWeights(model, DTYPES[spec.dtype])
    write_model(folder, weights, spec, tied=weights.tied)
    return certify_merge(folder, reference, rows, spec, model.device)


class MergedWeights(Mapping[str, Array]):
    """Name → merged weight, made when it is asked for, so that one tensor at a time is in memory twice."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._layers = {f"{name}.weight": layer for name, layer in lora_layers(model)}
        self._tensors = _unique_tensors(model, set(self._layers))
        head = model.get_output_embeddings()
        # A head that was adapted or trained on its own no longer equals the embedding.
        self.tied = (
            head is not None
            and not isinstance(head, LoraLinear)
            and (head.weight is model.get_input_embeddings().weight)
        )

    def __getitem__(self, name: str) -> Array:
        layer = self._layers.get(name)
        with torch.no_grad():
            tensor = self._tensors[name] if layer is None else layer.merged_weight()
            return to_array(tensor.to(self._dtype) if tensor.is_floating_point() else tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def size_bytes(self, name: str) -> int:
        """Bytes of one weight in the file."""
        tensor = self._tensors[name]
        return tensor.numel() * (self._dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)


def _unique_tensors(model: PreTrainedModel, merged: set[str]) -> dict[str, torch.Tensor]:
    """The model's tensors under the names of the base, tied ones once."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_A." in name or ".lora_B." in name or (id(tensor) in seen and plain not in merged):
            continue
        seen.add(id(tensor))
        tensors[plain] = tensor
    return tensors


def _trained(model: PreTrainedModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
