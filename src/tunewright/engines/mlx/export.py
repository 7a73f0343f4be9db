"""Servable models: the adapter in PEFT format, or merged weights, each with a certificate of the proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from tunewright.config.schema import AdapterConfig
from tunewright.engines.adapter_folder import export_arrays, read_start
from tunewright.engines.batches import Recent
from tunewright.engines.mlx.arrays import from_array, to_array
from tunewright.engines.mlx.certificate import certify_merge, log_probs
from tunewright.engines.mlx.load import BaseModel
from tunewright.engines.mlx.lora import LoraLinear, lora_layers, plain_weight
from tunewright.engines.mlx.precision import DTYPES
from tunewright.engines.model_folder import write_model
from tunewright.engines.protocol import EngineSpec
from tunewright.types import Array


def export_adapter(base: BaseModel, spec: EngineSpec, folder: Path) -> Mapping[str, object]:
    """Write what trains as an adapter folder and read it back. Raises EngineError when the bytes differ."""
    arrays = {name: to_array(values) for name, values in _trained(base).items()}
    return export_arrays(folder, arrays, spec, [name for name, _ in lora_layers(base.module)])


def load_adapter(base: BaseModel, folder: Path, config: AdapterConfig) -> None:
    """Start from a PEFT adapter. config: what the model was given. Raises ModelError unless names and shapes
    fit what trains, both ways, and the adapter was trained under the same scale."""
    shapes = {name: tuple(values.shape) for name, values in _trained(base).items()}
    start = read_start(folder, config, shapes)
    tree: Any = tree_unflatten([(name, from_array(start[name])) for name in shapes])
    base.module.update(tree)


def export_model(base: BaseModel, spec: EngineSpec, folder: Path, recent: Recent) -> Mapping[str, object]:
    """Write all weights, adapters merged in, as safetensors shards with config.json, then load and compare.

    Weights are stored in `spec.dtype`; quantised ones are dequantised. Raises EngineError when
    log-probabilities differ beyond the bound.
    """
    rows = recent.rows(base.arch.vocab_size)
    reference = log_probs(base, rows, spec.precision)
    write_model(folder, MergedWeights(base, DTYPES[spec.dtype]), spec, tied=base.tied)
    return certify_merge(folder, reference, rows, spec)


class MergedWeights:
    """Implements model_folder.Weights. Names are those of the base: this engine takes only families whose
    modules are named alike in transformers and mlx-lm."""

    def __init__(self, base: BaseModel, dtype: mx.Dtype) -> None:
        self._dtype = dtype
        self._modules: dict[str, Any] = dict(base.module.named_modules())
        parameters: dict[str, Any] = dict(tree_flatten(base.module.parameters()))
        self._parts = {
            name.replace(".base_layer.", "."): name
            for name in parameters
            if not _is_part(name, self._modules)
        }

    def __getitem__(self, name: str) -> Array:
        module, leaf = self._place(name)
        if leaf == "weight":
            merged = isinstance(module, LoraLinear)
            matrix = module.merged_weight() if merged else plain_weight(module)
            return to_array(matrix.astype(self._dtype))
        return to_array(module[leaf].astype(self._dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def size_bytes(self, name: str) -> int:
        """Bytes of one weight in the file."""
        module, leaf = self._place(name)
        layer: Any = module.base_layer if isinstance(module, LoraLinear) else module
        packed: int = 32 // layer.bits if leaf == "weight" and _is_quantised(layer) else 1
        return layer[leaf].size * packed * self._dtype.size

    def _place(self, name: str) -> tuple[Any, str]:
        """The module that holds a weight (an adapted one as such), and the weight's name in it."""
        holder, _, leaf = self._parts[name].rpartition(".")
        adapted = holder.removesuffix(".base_layer")
        return self._modules[adapted if leaf == "weight" else holder], leaf


def _is_part(name: str, modules: Mapping[str, Any]) -> bool:
    """Whether a parameter is only a part of a weight: of an adapter, or the scales of a quantised matrix."""
    holder, _, leaf = name.rpartition(".")
    return ".lora_" in name or (leaf in ("scales", "biases") and _is_quantised(modules[holder]))


def _is_quantised(module: object) -> bool:
    return isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding))


def _trained(base: BaseModel) -> dict[str, mx.array]:
    return dict(tree_flatten(base.module.trainable_parameters()))
