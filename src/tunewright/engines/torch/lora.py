"""LoRA layers and what trains beside them. Parameter names equal PEFT's without its `base_model.model.`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewright.config.schema import AdapterConfig
from tunewright.engines.torch.linear import has_stacked, is_linear, names_of_experts, widths
from tunewright.engines.torch.quantize import Linear4bit
from tunewright.errors import EngineError
from tunewright.models.adapter_files import LayerNames
from tunewright.models.lora import ALL_LINEAR, initial_values, is_named, is_router, match_targets


class LoraLinear(nn.Module):
    """y = base(x) + scale · B(A(dropout(x))). A is [rank, in] and B [out, rank], both fp32; B starts at 0."""

    def __init__(self, base_layer: nn.Linear | Linear4bit | Conv1D, config: AdapterConfig) -> None:
        super().__init__()
        packed = isinstance(base_layer, Linear4bit)
        device = base_layer.packed.device if packed else base_layer.weight.device
        self.base_layer = base_layer
        self.in_features, self.out_features = widths(base_layer)
        self.lora_A = _blank_linear(self.in_features, config.rank, device)
        self.lora_B = _blank_linear(config.rank, self.out_features, device)
        nn.init.zeros_(self.lora_B.weight)
        self.scale = config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)
        self.dropout = config.dropout

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight; model code asks for it to learn the type."""
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base_layer(x)
        inner = F.dropout(x, self.dropout, self.training) if self.dropout else x
        if not torch.is_autocast_enabled(x.device.type):
            inner = inner.to(self.lora_A.weight.dtype)
        return (y + self.scale * self.lora_B(self.lora_A(inner))).to(y.dtype)

    def merged_weight(self) -> torch.Tensor:
        """base + scale · B A, added up in fp32 and rounded once to the base's type, the way round that the
        base stores its weight."""
        delta = self.scale * (self.lora_B.weight @ self.lora_A.weight)
        if isinstance(self.base_layer, Conv1D):
            delta = delta.T
        base = self.base_layer.weight
        return (base.float() + delta).to(base.dtype)


def _blank_linear(inputs: int, outputs: int, device: torch.device) -> nn.Linear:
    """A layer without values: they come from NumPy, and drawing here would move the random state."""
    return nn.Linear(inputs, outputs, bias=False, device="meta").to_empty(device=device).float()


def add_adapter(model: nn.Module, config: AdapterConfig, seed: int) -> list[str]:
    """Put LoRA into `model` and mark what trains; returns the names of the adapted modules, in model order.

    Start values depend on (seed, module name) only. Raises EngineError for a target that is no linear layer
    or a name in modules_to_save that the model lacks.
    """
    modules = dict(model.named_modules())
    saved = _saved_modules(modules, config.modules_to_save)
    targets = _targets(model, modules, config, saved)
    model.requires_grad_(False)
    for name in targets:
        layer = LoraLinear(_as_linear(name, modules[name]), config)
        start = initial_values(seed, name, layer.in_features, config.rank)
        with torch.no_grad():
            layer.lora_A.weight.copy_(torch.from_numpy(start))
        _replace(model, name, layer)
    _unfreeze_biases(model, config.bias)
    for name in saved:
        # A copy, also of a tied head: PEFT unties in the same way, and the embedding stays as it was.
        _replace(model, name, copy.deepcopy(modules[name]).float().requires_grad_(True))
    _to_masters(model)
    return targets


def train_all(model: nn.Module) -> None:
    """Full fine-tuning: every parameter trains, in fp32."""
    model.float().requires_grad_(True)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """(module name, layer) of each adapted module."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def name_layers(model: nn.Module) -> LayerNames:
    """What an adapter folder says of the adapted layers."""
    adapted = dict(lora_layers(model))
    last_parts = {name.rpartition(".")[2] for name in adapted}
    others = (
        name
        for name, _ in model.named_modules()
        if name not in adapted and name.rpartition(".")[0] not in adapted
    )
    return LayerNames(
        are_transposed=any(isinstance(layer.base_layer, Conv1D) for layer in adapted.values()),
        share_names=any(name.rpartition(".")[2] in last_parts for name in others) or has_stacked(model),
    )


def _targets(
    model: nn.Module, modules: dict[str, nn.Module], config: AdapterConfig, saved: list[str]
) -> list[str]:
    linear = [name for name, module in modules.items() if is_linear(module)]
    head = next((name for name, module in modules.items() if module is _head(model)), None)
    # Beside `experts` that are one weight a router is known by the modules alone.
    known = frozenset(modules)
    taken = names_of_experts(model)
    candidates = [
        name for name in linear if not is_router(name, known) and name.rpartition(".")[2] not in taken
    ]
    names = candidates if config.targets == ALL_LINEAR else [name for name in modules if name]
    matched = match_targets(names, config.targets, head=head, offered=linear)
    return [name for name in matched if not any(name == s or name.startswith(f"{s}.") for s in saved)]


def _head(model: nn.Module) -> nn.Module | None:
    return model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None


def _as_linear(name: str, module: nn.Module) -> nn.Linear | Linear4bit | Conv1D:
    if not isinstance(module, (nn.Linear, Linear4bit, Conv1D)) or not is_linear(module):
        raise EngineError(
            "only linear layers take a LoRA adapter",
            where="adapter.targets",
            got=f"{name} ({type(module).__name__})",
            hint="name it in adapter.modules_to_save to train it in full",
            code="engine.target-not-linear",
        )
    return module


def _saved_modules(modules: dict[str, nn.Module], wanted: tuple[str, ...]) -> list[str]:
    for want in wanted:
        if not any(is_named(name, want) for name in modules):
            raise EngineError(
                "the model has no such module",
                where="adapter.modules_to_save",
                got=want,
                code="engine.unknown-module",
            )
    return [name for name in modules if any(is_named(name, want) for want in wanted)]


def _unfreeze_biases(model: nn.Module, bias: str) -> None:
    if bias == "all":
        for name, parameter in model.named_parameters():
            if is_named(name, "bias"):
                parameter.requires_grad_(True)
    elif bias == "lora_only":
        for _, layer in lora_layers(model):
            values = layer.base_layer.bias
            if values is not None:
                values.requires_grad_(True)


def _to_masters(model: nn.Module) -> None:
    """Whatever trains is held in fp32, also where the frozen rest is stored in 16 bits."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, child, module)
