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
from tunewright.engines.torch.load import load_model, vocabulary_size
from tunewright.engines.torch.lora import LoraLinear, add_adapter, lora_layers, name_layers
from tunewright.engines.torch.precision import DTYPES
from tunewright.engines.torch.quantize import Linear4bit
from tunewright.types import Array


def export_adapter(model: PreTrainedModel, spec: EngineSpec, folder: Path) -> Mapping[str, object]:
    """Write what trains as an adapter folder and read it back. Raises EngineError when the bytes differ."""
    arrays = {name: to_array(parameter) for name, parameter in _trained(model)}
    return export_arrays(folder, arrays, spec, [name for name, _ in lora_layers(model)], name_layers(model))


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

    Weights are stored in `spec.dtype`. A quantised base is replaced by the original one where
    `spec.merge_base` says so; the certificate is then that of the adapter on it, and
    `quantization_difference` says how far, in nats, that is from what was trained. Raises EngineError when
    log-probabilities differ beyond the bound.
    """
    rows = recent.rows(vocabulary_size(model))
    reference = log_probs(model, rows, spec.precision)
    if spec.quantization == "none" or spec.merge_base == "dequantised":
        _write_merged(model, spec, folder)
        return certify_merge(folder, reference, rows, spec, model.device)
    original = _on_original_base(model, spec)
    trained, reference = reference, log_probs(original, rows, spec.precision)
    _write_merged(original, spec, folder)
    del original
    return {
        **certify_merge(folder, reference, rows, spec, torch.device("cpu")),
        "quantization_difference": float((reference - trained).abs().max()),
    }


def _write_merged(model: PreTrainedModel, spec: EngineSpec, folder: Path) -> None:
    weights = MergedWeights(model, DTYPES[spec.dtype])
    write_model(folder, weights, spec, tied=weights.tied)


def _on_original_base(model: PreTrainedModel, spec: EngineSpec) -> PreTrainedModel:
    """The base in full, read again from disk, with what `model` has trained. On the CPU: it was quantised
    because the device is small."""
    original = load_model(spec.model_folder, dtype=DTYPES[spec.dtype], device=torch.device("cpu"))
    add_adapter(original, spec.adapter, spec.seed)
    trained = dict(_trained(model))
    with torch.no_grad():
        for name, parameter in _trained(original):
            parameter.copy_(trained[name])
    return original


class MergedWeights(Mapping[str, Array]):
    """Name → merged weight, made when it is asked for, so that one tensor at a time is in memory twice."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self._dtype = dtype
        adapted = {f"{name}.weight": layer for name, layer in lora_layers(model)}
        self._layers = {**_packed_layers(model), **adapted}
        self._tensors = _unique_tensors(model, set(adapted))
        self._names = [*self._tensors, *(name for name in self._layers if name not in self._tensors)]
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
            if layer is None:
                tensor = self._tensors[name]
            else:
                tensor = layer.merged_weight() if isinstance(layer, LoraLinear) else layer.weight
            return to_array(tensor.to(self._dtype) if tensor.is_floating_point() else tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def size_bytes(self, name: str) -> int:
        """Bytes of one weight in the file."""
        tensor = self._tensors.get(name)
        if tensor is None:
            layer = self._layers[name]
            return layer.out_features * layer.in_features * self._dtype.itemsize
        return tensor.numel() * (self._dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)


def _packed_layers(model: PreTrainedModel) -> dict[str, Linear4bit]:
    """Name of the weight in the base → the layer that holds it packed."""
    return {
        f"{name.removesuffix('.base_layer')}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit)
    }


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
