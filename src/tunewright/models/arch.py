"""What a model is, in numbers: read from config.json and the headers of its weight files, without tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tunewright.errors import ModelError
from tunewright.models.native import config_defaults
from tunewright.models.sanitise import read_json
from tunewright.models.weights import check_weights, find_weights

Shapes = Mapping[str, tuple[int, ...]]
"""Weight name → shape."""

# Other families' names of the same size.
_NAMES = {
    "layers": (
        "decoder_layers",
        "num_decoder_layers",
        "num_hidden_layers",
        "n_layer",
        "num_layers",
        "n_layers",
    ),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim", "emb_dim"),
    "heads": (
        "decoder_attention_heads",
        "num_decoder_attention_heads",
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "attention_heads",
    ),
    "kv_heads": ("num_key_value_heads", "multi_query_group_num", "num_kv_heads"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim"),
    "max_positions": (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "max_target_positions",
    ),
}
# Every n-th layer is global where neither layer_types nor a pattern is given.
_GLOBAL_EVERY = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}
_EMBEDDING_WORDS = ("embed", "wte", "wpe")


@dataclass(frozen=True, slots=True)
class Arch:
    """Sizes of a causal language model. Windows are in tokens, one a layer, None for a global layer.

    linear_modules: full names of what `all-linear` adapts, in order of name; linear_shapes: [out, in] of
    each. normed_width: numbers of a token that the norms of the first block read. parameters counts tied
    weights once; embedding_parameters are those of embeddings and head among them.
    """

    model_type: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    vocab_size: int
    max_positions: int | None
    tied: bool
    windows: tuple[int | None, ...]
    attention_soft_cap: float | None
    final_soft_cap: float | None
    linear_modules: tuple[str, ...]
    linear_shapes: tuple[tuple[int, int], ...]
    normed_width: int
    parameters: int
    embedding_parameters: int


def load_arch(folder: Path) -> Arch:
    """Facts of the model in a sanitised folder. Raises ModelError when a size is missing or unreadable."""
    shapes = {
        name: entry.shape for path in find_weights(folder) for name, entry in check_weights(path).items()
    }
    return build_arch(read_json(folder / "config.json"), shapes, str(folder / "config.json"))


def build_arch(config: Mapping[str, Any], shapes: Shapes, where: str) -> Arch:
    """Facts of the model with this config.json and these weights. Raises ModelError, naming `where`."""
    settings = text_settings(config)
    sizes = {size: _size(settings, names) for size, names in _NAMES.items()}
    sizes["layers"] = sizes["layers"] or len(settings.get("layers_block_type") or ()) or None
    layers, hidden = _needed(sizes, "layers", where), _needed(sizes, "hidden_size", where)
    # State-space models have none: one as wide as the model.
    heads = sizes["heads"] or 1
    vocab = _needed({"vocab_size": settings.get("vocab_size")}, "vocab_size", where)
    outer = {name for name, shape in shapes.items() if len(shape) == 2 and _is_outer(name, shape, vocab)}
    linear = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in sorted(shapes.items(), key=lambda item: item[0].removesuffix(".weight"))
        if len(shape) == 2 and name.endswith(".weight") and name not in outer
    }
    kv_heads, head_size = sizes["kv_heads"] or heads, settings.get("head_dim") or hidden // heads
    return Arch(
        model_type=str(settings.get("model_type")),
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        intermediate_size=sizes["intermediate_size"] or 4 * hidden,
        vocab_size=vocab,
        max_positions=sizes["max_positions"],
        tied=not any(_is_head(name) for name in outer),
        windows=_windows(settings, layers),
        attention_soft_cap=settings.get("attn_logit_softcapping"),
        final_soft_cap=settings.get("final_logit_softcapping"),
        linear_modules=tuple(linear),
        linear_shapes=tuple(linear.values()),
        normed_width=_normed_width(shapes, {"q_norm": heads, "k_norm": kv_heads}, head_size) or 2 * hidden,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        embedding_parameters=sum(math.prod(shapes[name]) for name in outer),
    )


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the text model, defaults of its class filled in."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, **cast("dict[str, Any]", text)}
    return {**config_defaults(str(config.get("model_type"))), **config}


def _size(settings: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if isinstance(value := settings.get(name), int)), None)


def _needed(sizes: Mapping[str, Any], name: str, where: str) -> int:
    value = sizes[name]
    if not isinstance(value, int) or value < 1:
        raise ModelError(
            "a size of the model is missing",
            where=where,
            got=value,
            expected=" or ".join(_NAMES.get(name, (name,))),
            code="model.bad-config",
        )
    return value


def _is_outer(name: str, shape: tuple[int, ...], vocab: int) -> bool:
    """Whether a matrix is an embedding or the head: outside the numbered layers, of such a name or size."""
    if any(part.isdigit() for part in name.split(".")):
        return False
    return shape[0] == vocab or _is_head(name) or any(word in name for word in _EMBEDDING_WORDS)


def _is_head(name: str) -> bool:
    return name in ("lm_head.weight", "embed_out.weight", "output.weight") or name.endswith(".lm_head.weight")


def _normed_width(shapes: Shapes, head_norms: Mapping[str, int], head_size: int) -> int:
    """Widths of the norms of the first block. head_norms: how many heads share a norm of one head's width."""
    width = 0
    for name, shape in shapes.items():
        module = name.removesuffix(".weight").rpartition(".")[2]
        if len(shape) == 1 and ".0." in name and ("norm" in module or module.startswith("ln")):
            width += shape[0] * (head_norms.get(module, 1) if shape[0] == head_size else 1)
    return width


def _windows(settings: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    window: int | None = settings.get("sliding_window")
    if window is None:
        return (None,) * layers
    kinds: list[str] | None = settings.get("layer_types")
    if kinds is not None:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if "use_sliding_window" in settings:
        first = settings.get("max_window_layers") or 0
        return tuple(window if settings["use_sliding_window"] and i >= first else None for i in range(layers))
    every = settings.get("sliding_window_pattern") or _GLOBAL_EVERY.get(str(settings.get("model_type")))
    return tuple(None if every and (i + 1) % every == 0 else window for i in range(layers))
