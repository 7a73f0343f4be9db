"""Which model types train here, and their settings in the words of mlx-lm's classes.

mlx-lm reads config.json with defaults of its own, does not know all of the names that transformers 5 writes
(rope_parameters), and leaves sliding windows of several families out. So its classes get their arguments from
here, every default filled in as transformers has it, and the windows are applied by attention.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tunewright.errors import EngineError
from tunewright.models.arch import Arch
from tunewright.models.native import config_defaults
from tunewright.models.sanitise import read_json

# What transformers takes where config.json does not say.
_THETA = 10_000.0
_GEMMA3_THETAS = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


@dataclass(frozen=True, slots=True)
class Family:
    """A model type. module: file in mlx_lm/models. activation: the only one its class computes.

    scaled_embedding: embeddings are multiplied by sqrt(width). boolean_mask: its attention takes no
    "causal" for a mask. rounds_scale: the class rounds the embedding scale to bf16 in every number format,
    where transformers does so in bf16 alone. has_windows: the class applies sliding windows by itself.
    """

    module: str
    activation: str = "silu"
    scaled_embedding: bool = False
    boolean_mask: bool = False
    rounds_scale: bool = False
    has_windows: bool = False


_GELU = "gelu_pytorch_tanh"
FAMILIES: dict[str, Family] = {
    "llama": Family("llama"),
    "mistral": Family("llama"),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "phi3": Family("phi3"),
    "gemma": Family("gemma", _GELU, scaled_embedding=True),
    "gemma2": Family("gemma2", _GELU, scaled_embedding=True, boolean_mask=True),
    "gemma3_text": Family("gemma3_text", _GELU, scaled_embedding=True, rounds_scale=True, has_windows=True),
}
"""Model type → how mlx-lm's class of it is used. Each is compared with transformers in tests/numerics."""


def find_family(arch: Arch) -> Family:
    """The family of a model. Raises EngineError for a type that this engine does not know."""
    if arch.model_type not in FAMILIES:
        raise EngineError(
            f"the mlx engine does not train models of type {arch.model_type}",
            where="model.name",
            expected=", ".join(FAMILIES),
            hint="set engine: torch",
            code="engine.unsupported-model",
        )
    return FAMILIES[arch.model_type]


def model_arguments(folder: Path, arch: Arch) -> dict[str, Any]:
    """config.json as the fields of mlx-lm's ModelArgs. Raises EngineError for what its class cannot do."""
    family = find_family(arch)
    config = {**config_defaults(arch.model_type), **read_json(folder / "config.json")}
    _check_config(config, family)
    arguments = {name: value for name, value in config.items() if value is not None}
    # Layer types would make the class build window masks of its own.
    for name in ("layer_types", "sliding_window", "rope_parameters", "rope_scaling"):
        arguments.pop(name, None)
    arguments["head_dim"] = arch.head_size
    arguments["num_key_value_heads"] = arch.kv_heads
    if arch.model_type == "gemma3_text":
        return {**arguments, **_gemma3_layers(config, arch)}
    return {**arguments, **_rope(config)}


def _check_config(config: Mapping[str, Any], family: Family) -> None:
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation != family.activation:
        raise _unsupported("hidden_act", activation, family.activation)
    if config.get("use_bidirectional_attention"):
        raise _unsupported("use_bidirectional_attention", True, "false")
    if family.module == "gemma2":
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if not config.get(name):
                raise _unsupported(name, config.get(name), "a number")
    elif config.get("attn_logit_softcapping") or config.get("final_logit_softcapping"):
        raise _unsupported("attn_logit_softcapping or final_logit_softcapping", "a number", "null")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings: flat in older files, under rope_parameters in those of transformers 5."""
    rope = _mapping(config.get("rope_parameters")) or _mapping(config.get("rope_scaling"))
    theta = rope.get("rope_theta", config.get("rope_theta", _THETA))
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    arguments = {"rope_theta": theta, "partial_rotary_factor": share}
    scaling = _scaling(rope)
    return {**arguments, "rope_scaling": scaling} if scaling else arguments


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise _unsupported("rope_type", kind, "default, linear or llama3")
    return {**rope, "type": kind, "rope_type": kind}


def _gemma3_layers(config: Mapping[str, Any], arch: Arch) -> dict[str, Any]:
    """Gemma 3 turns by another angle in window layers, and its class knows those by their period only."""
    kinds = [window is None for window in arch.windows]
    period = kinds.index(True) + 1 if True in kinds else len(kinds) + 1
    if kinds != [(layer + 1) % period == 0 for layer in range(arch.layers)]:
        raise _unsupported("layer_types", "no fixed period", "a global layer after every n window layers")
    given = _mapping(config.get("rope_parameters"))
    ropes = {kind: _mapping(given.get(kind)) for kind in _GEMMA3_THETAS}
    if _scaling(ropes["sliding_attention"]):
        raise _unsupported("rope_parameters", "scaled window layers", "default")
    older = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}
    thetas = {
        kind: rope.get("rope_theta", config.get(older[kind], _GEMMA3_THETAS[kind]))
        for kind, rope in ropes.items()
    }
    return {
        "sliding_window_pattern": period,
        "sliding_window": max((window for window in arch.windows if window), default=1),
        "rope_theta": thetas["full_attention"],
        "rope_local_base_freq": thetas["sliding_attention"],
        "rope_scaling": _scaling(ropes["full_attention"]) or _scaling(_mapping(config.get("rope_scaling"))),
    }


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _unsupported(name: str, got: object, expected: str) -> EngineError:
    return EngineError(
        "the mlx engine cannot compute this model",
        where=f"config.json: {name}",
        got=got,
        expected=expected,
        hint="set engine: torch",
        code="engine.unsupported-model",
    )
