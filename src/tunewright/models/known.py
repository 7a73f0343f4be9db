"""Sizes of models that are not on disk: published configs, and the weights that a config implies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tunewright.models.arch import Arch, Shapes, build_arch, text_settings

_TABLE = Path(__file__).with_name("known_models.json")
# Families whose layers are made of the same matrices; True for biases on q, k and v.
_FAMILIES = {"llama": False, "mistral": False, "qwen2": True}


def known_models() -> tuple[str, ...]:
    """Hub ids whose sizes are known without the model."""
    return tuple(_read_table())


def known_arch(name: str) -> Arch | None:
    """Facts of the hub model `name` by its published config.json; None when not in the table."""
    config = _read_table().get(name)
    return None if config is None else build_arch(config, implied_shapes(config) or {}, f"model {name}")


def implied_shapes(config: Mapping[str, Any]) -> Shapes | None:
    """Shape of every weight of a model with this config.json, tied ones once; None for a family whose layers
    are not known here."""
    settings = text_settings(config)
    if settings.get("model_type") not in _FAMILIES:
        return None
    hidden, inner, vocab = (settings[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    heads = settings["num_attention_heads"]
    kv_heads, head = settings.get("num_key_value_heads") or heads, settings.get("head_dim") or hidden // heads
    matrices = {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (kv_heads * head, hidden),
        "self_attn.v_proj": (kv_heads * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    if not settings.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(settings["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")
        }
        shapes |= {f"{prefix}{name}.weight": shape for name, shape in matrices.items()}
        if _FAMILIES[settings["model_type"]]:
            shapes |= {f"{prefix}self_attn.{x}_proj.bias": matrices[f"self_attn.{x}_proj"][:1] for x in "qkv"}
    return shapes


def _read_table() -> Mapping[str, Mapping[str, Any]]:
    return cast("Mapping[str, Mapping[str, Any]]", json.loads(_TABLE.read_text(encoding="utf-8")))
