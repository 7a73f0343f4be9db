"""Whether a model's layers can be computed the fast way, and putting them in place."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.fast.attention import Heads
from tunewright.engines.torch.fast.elementwise import ACTIVATIONS, Elementwise
from tunewright.engines.torch.fast.layer import FastLayer, LayerFacts
from tunewright.engines.torch.varlen import takes_documents

NORM_SHIFTS = {
    "LlamaDecoderLayer": 0.0,
    "MistralDecoderLayer": 0.0,
    "Qwen2DecoderLayer": 0.0,
    "Qwen3DecoderLayer": 0.0,
    "GemmaDecoderLayer": 1.0,
}
"""Layers of which FastLayer knows the whole computation → what is added to the weight of their norms. To add
a family: a line here, in models/fast_activations.py and in tests/numerics/test_fast_path.py."""

_WINDOW_IN_CONFIG = ("MistralDecoderLayer",)
"""Families that read it there; the others keep it in the attention, or have none whatever the config says."""

_ADAPTERS = (".lora_A.weight", ".lora_B.weight")


def why_plain(model: PreTrainedModel, spec: EngineSpec) -> str | None:
    """What the fast layers cannot do of this model and adapter; None when they can do all."""
    return _why_not_asked(spec) or _why_not_model(model) or _why_not_trained(model)


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers as they are now, in order."""
    found = getattr(model.base_model, "layers", None)
    return list(found) if isinstance(found, nn.ModuleList) else []


def replace_layer(model: PreTrainedModel, number: int, ops: Elementwise) -> FastLayer:
    """Put a FastLayer in the place of a decoder layer and return it. Parameters stay the same objects under
    the same names."""
    layers: Any = model.base_model.layers
    plain = layers[number]
    layers[number] = FastLayer(plain, _read_facts(plain), ops, last=number == len(layers) - 1)
    return layers[number]


def restore_layers(model: PreTrainedModel, before: list[nn.Module]) -> None:
    """Undo replace_layer() of any of them."""
    layers: Any = model.base_model.layers
    for number, plain in enumerate(before):
        layers[number] = plain


def has_fast_layers(model: PreTrainedModel) -> bool:
    """Whether the last layer gives label rows only when it is told of them."""
    layers = decoder_layers(model)
    return bool(layers) and isinstance(layers[-1], FastLayer)


def _why_not_asked(spec: EngineSpec) -> str | None:
    if spec.adapter.kind != "lora":
        return "all weights train"
    if spec.dtype != spec.precision or spec.precision == "fp16":
        return f"{spec.dtype} weights computed in {spec.precision}"
    return None


def _why_not_model(model: PreTrainedModel) -> str | None:
    if not takes_documents(model):
        return "eager attention"
    kinds = sorted({type(layer).__name__ for layer in decoder_layers(model)}) or [type(model).__name__]
    unknown = [kind for kind in kinds if kind not in NORM_SHIFTS]
    if unknown:
        return f"{', '.join(unknown)} is not known"
    activation = model.config.get_text_config().hidden_act
    return None if activation in ACTIVATIONS else f"activation {activation}"


def _why_not_trained(model: PreTrainedModel) -> str | None:
    for layer in decoder_layers(model):
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad and not name.endswith(_ADAPTERS):
                return f"{name} trains"
    return None


def _read_facts(plain: Any) -> LayerFacts:
    attention = plain.self_attn
    keys = attention.k_proj.out_features // attention.head_dim
    return LayerFacts(
        heads=Heads(keys, attention.q_proj.out_features // attention.head_dim // keys),
        scale=attention.scaling,
        window_holder=attention.config if type(plain).__name__ in _WINDOW_IN_CONFIG else attention,
        norm_shift=NORM_SHIFTS[type(plain).__name__],
        activation=ACTIVATIONS[attention.config.hidden_act],
    )
