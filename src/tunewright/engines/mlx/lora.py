"""LoRA layers and what trains beside them. Names and layouts equal those of the torch engine and PEFT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from mlx import nn

from tunewright.config.schema import AdapterConfig
from tunewright.engines.mlx.load import BaseModel
from tunewright.errors import EngineError
from tunewright.models.lora import initial_values, is_named, match_targets


class Matrix(nn.Module):
    """A weight by itself, [out, in], so that its name ends in `.weight`."""

    def __init__(self, weight: mx.array) -> None:
        super().__init__()
        self.weight = weight


class LoraLinear(nn.Module):
    """y = base(x) + scale · B(A(dropout(x))). A is [rank, in] and B [out, rank], both fp32; B starts at 0.

    base_layer may be quantised. Dropout happens only while dropout_key returns a key.
    """

    def __init__(self, base_layer: Any, start: mx.array, config: AdapterConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = Matrix(start)
        self.lora_B = Matrix(mx.zeros((base_layer.weight.shape[0], config.rank)))
        self.scale = config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)
        self.dropout = config.dropout
        # Underscore: MLX takes any other array in a module for a parameter.
        self._key: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        inner = x
        if self.dropout and self._key is not None:
            kept = mx.random.bernoulli(1 - self.dropout, x.shape, key=self._key)
            inner = mx.where(kept, x / (1 - self.dropout), 0)
        update = (inner @ self.lora_A.weight.T) @ self.lora_B.weight.T
        y = self.base_layer(x)
        return y + (self.scale * update).astype(y.dtype)

    def merged_weight(self) -> mx.array:
        """base + scale · B A, added up in fp32 and rounded once to the base's type. A packed base is
        unpacked."""
        base = plain_weight(self.base_layer)
        delta = self.scale * (self.lora_B.weight @ self.lora_A.weight)
        return (base.astype(mx.float32) + delta).astype(base.dtype)


def plain_weight(layer: Any) -> mx.array:
    """The matrix of a linear layer or embedding, unpacked where it is packed."""
    if not isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
        return layer.weight
    return mx.dequantize(
        layer.weight, layer.scales, layer.get("biases"),
        group_size=layer.group_size, bits=layer.bits, mode=layer.mode,
    )  # fmt: skip


def add_adapter(base: BaseModel, config: AdapterConfig, seed: int) -> list[str]:
    """Put LoRA into the model and mark what trains; returns the names of the adapted modules, in model order.

    Start values depend on (seed, module name) only. Raises EngineError for a target that is no linear layer
    or a name in modules_to_save that the model lacks.
    """
    modules = _ordered_modules(base.module)
    saved = _saved_modules(base, modules, config.modules_to_save)
    targets = _targets(modules, config, saved)
    for name in targets:
        linear = _as_linear(name, modules[name])
        start = mx.array(initial_values(seed, name, _input_size(linear), config.rank))
        layer = LoraLinear(linear, start, config)
        layer.freeze()
        layer.lora_A.unfreeze()
        layer.lora_B.unfreeze()
        _replace(base.module, name, layer)
    _unfreeze_biases(base.module, config.bias)
    for name in saved:
        modules[name].unfreeze()
    return targets


def train_all(base: BaseModel) -> None:
    """Full fine-tuning: every parameter trains."""
    base.module.unfreeze()


def lora_layers(module: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """(module name, layer) of each adapted module, in model order."""
    for name, child in _ordered_modules(module).items():
        if isinstance(child, LoraLinear):
            yield name, child


def set_dropout_key(module: nn.Module, key: mx.array | None) -> None:
    """Give each adapted layer a key of its own, or None: no dropout."""
    layers = [layer for _, layer in lora_layers(module)]
    keys = [None] * len(layers) if key is None else mx.random.split(key, len(layers))
    for number, layer in enumerate(layers):
        layer._key = keys[number]


def _ordered_modules(module: nn.Module) -> dict[str, Any]:
    """Modules by name in the order of the model; named_modules walks backwards."""
    return dict(reversed([(name, child) for name, child in module.named_modules() if name]))


def _targets(modules: dict[str, Any], config: AdapterConfig, saved: list[str]) -> list[str]:
    linear = [name for name, module in modules.items() if _is_linear(module)]
    names = linear if config.targets == "all-linear" else list(modules)
    matched = match_targets(names, config.targets, head="lm_head", offered=linear)
    return [name for name in matched if not any(name == s or name.startswith(f"{s}.") for s in saved)]


def _is_linear(module: object) -> bool:
    return isinstance(module, (nn.Linear, nn.QuantizedLinear))


def _as_linear(name: str, module: Any) -> Any:
    if not _is_linear(module):
        raise EngineError(
            "only linear layers take a LoRA adapter",
            where="adapter.targets",
            got=f"{name} ({type(module).__name__})",
            hint="name it in adapter.modules_to_save to train it in full",
            code="engine.target-not-linear",
        )
    return module


def _input_size(linear: Any) -> int:
    packed = 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else 1
    return linear.weight.shape[1] * packed


def _saved_modules(base: BaseModel, modules: dict[str, Any], wanted: tuple[str, ...]) -> list[str]:
    for want in wanted:
        if not any(is_named(name, want) for name in modules):
            raise EngineError(
                "the model has no such module",
                where="adapter.modules_to_save",
                got=want,
                hint="the head of this model is its embedding" if base.tied and want == "lm_head" else None,
                code="engine.unknown-module",
            )
    saved = [name for name in modules if any(is_named(name, want) for want in wanted)]
    if base.tied and "model.embed_tokens" in saved:
        raise EngineError(
            "the mlx engine cannot train an embedding apart from the head that shares its values",
            where="adapter.modules_to_save",
            got="embed_tokens",
            hint="set engine: torch, or leave it out",
            code="engine.unsupported-option",
        )
    return saved


def _unfreeze_biases(module: nn.Module, bias: str) -> None:
    if bias == "all":
        module.unfreeze(keys="bias", strict=False)
    elif bias == "lora_only":
        for _, layer in lora_layers(module):
            layer.base_layer.unfreeze(keys="bias", recurse=False, strict=False)


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    *parents, child = name.split(".")
    holder: Any = module
    for part in parents:
        holder = holder[int(part)] if part.isdigit() else holder[part]
    setattr(holder, child, layer)
