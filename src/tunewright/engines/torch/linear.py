"""Which modules of a model compute a linear layer, and so can take a LoRA adapter or be packed into 4 bits.

Names and base classes tell little: routers derive from nn.Linear and return tuples, GPT-2 stores its matrices
the other way round, and the experts of a mixture are one three-dimensional weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F
from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN
from transformers.pytorch_utils import Conv1D

from tunewright.engines.torch.quantize import Linear4bit
from tunewright.models.lora import is_router, kind_of_module

# As in PEFT's utils/transformers_weight_conversion.py, for the types that share a layout on disk.
_NAMES_OF_EXPERTS = {
    "mixtral": frozenset(("w1", "w2", "w3")),
    "qwen2_moe": frozenset(("gate_proj", "up_proj", "down_proj")),
}
_NO_MATRICES = ("emb", "pos", "probe", "A_log", "feature")


def is_linear(module: nn.Module) -> bool:
    """Whether the module computes x Wᵀ + b and nothing else, whichever way W is stored."""
    if isinstance(module, nn.Linear):
        return computes_linear(type(module))
    return isinstance(module, (Linear4bit, Conv1D))


@cache
def computes_linear(kind: type[nn.Linear]) -> bool:
    """Whether a class of linear layers computes what nn.Linear does; tried out where it has a forward of its
    own."""
    if kind.forward is nn.Linear.forward:
        return True
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            layer = kind(8, 4)
            x = torch.linspace(-1, 1, 24).reshape(3, 8)
            found: object = layer(x)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            # Another constructor or another input: another layer.
            return False
        wanted = F.linear(x, layer.weight, layer.bias)
    return isinstance(found, torch.Tensor) and found.shape == wanted.shape and torch.allclose(found, wanted)


def widths(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer."""
    if isinstance(module, Conv1D):
        inputs, outputs = module.weight.shape
        return inputs, outputs
    assert isinstance(module, (nn.Linear, Linear4bit))
    return module.in_features, module.out_features


def find_unadapted(model: nn.Module, adapted: Collection[str]) -> Mapping[str, int]:
    """Kind → count of the weights that multiply what a token computes and have no adapter under `all-linear`:
    routers, experts that are one weight, and layers that compute something of their own."""
    modules, taken = dict(model.named_modules()), names_of_experts(model)
    counts: Counter[str] = Counter()
    for name, module in modules.items():
        if name in adapted or any(part in name for part in (".base_layer", ".lora_A", ".lora_B")):
            continue
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear) and not computes_linear(type(module)):
            counts[kind_of_module(name)] += 1
        elif (isinstance(module, nn.Linear) and name.rpartition(".")[2] in taken) or (
            is_router(name, modules) and any(weight.ndim == 2 for weight in own.values())
        ):
            counts[kind_of_module(name, parts=2)] += 1
        else:
            counts.update(
                f"{kind_of_module(name)}.{key}"
                for key, weight in own.items()
                if _is_stacked(module, key, weight)
            )
    return counts


def names_of_experts(model: nn.Module) -> frozenset[str]:
    """Last parts of names that PEFT takes for the routed experts of this model, wherever they stand.

    It gives an adapter on a dense or shared expert of such a name to the routed ones, without an error: the
    export would be another model there.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    patterns = {**_MODEL_TO_CONVERSION_PATTERN, "mixtral": "mixtral"}
    return _NAMES_OF_EXPERTS.get(patterns.get(str(model_type), ""), frozenset())


def has_stacked(model: nn.Module) -> bool:
    """Whether some weights of the model are several matrices in one."""
    return any(
        _is_stacked(module, key, weight)
        for module in model.modules()
        for key, weight in module.named_parameters(recurse=False)
    )


def _is_stacked(module: nn.Module, key: str, weight: nn.Parameter) -> bool:
    """Whether a weight is several matrices in one, of experts or heads: no table of positions, no kernel."""
    return (
        weight.ndim == 3
        and min(weight.shape[1:]) > 1
        and not isinstance(module, (nn.Conv1d, nn.Embedding))
        and not any(word in key for word in _NO_MATRICES)
    )
