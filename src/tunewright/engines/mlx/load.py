"""The base model from its sanitised folder into mlx-lm's class: safetensors only, every weight found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from tunewright.engines.mlx.classes import import_models_module
from tunewright.engines.mlx.device import is_out_of_memory
from tunewright.engines.mlx.families import Family, find_family, model_arguments
from tunewright.engines.mlx.quantize import (
    PACKED_BYTES,
    count_parameters,
    prepare_packed,
    quantize_linears,
)
from tunewright.errors import EngineError, ModelError
from tunewright.models.adapter_keys import FLOAT_TYPES
from tunewright.models.arch import Arch, load_arch
from tunewright.models.sanitise import read_json
from tunewright.models.weights import check_weights, find_weights, not_finite


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded model. module: mlx-lm's own, which holds the weights. tied: the head is the embedding.

    windows: tokens that each layer sees, None for all before. embedding_scale: factor on embeddings, 1 for
    most families. parameters: numbers in the model, packed ones counted one by one.
    """

    module: nn.Module
    arch: Arch
    family: Family
    windows: tuple[int | None, ...]
    embedding_scale: float
    tied: bool
    parameters: int


def load_model(
    folder: Path, *, dtype: mx.Dtype, quantization: str = "none", memory_bytes: int | None = None
) -> BaseModel:
    """The causal language model in `folder`, frozen, in evaluation mode, floating weights as `dtype`.

    quantization: `4bit` packs linear layers; a model that comes packed stays as it is. memory_bytes: what
    the device has to give, None unknown. Leaves MLX's global random state alone. Raises ModelError when a
    weight is missing, has another shape or no place, EngineError for a model that this engine does not know
    or that is larger than the memory.
    """
    arch = load_arch(folder)
    family = find_family(arch)
    module = _build_module(folder, arch, family)
    _check_memory(folder, dtype, quantization, memory_bytes)
    weights = _read_weights(folder, module, dtype)
    packed = read_json(folder / "config.json").get("quantization")
    if packed:
        prepare_packed(module, packed, weights)
    _check_complete(folder, module, weights)
    _check_finite(folder, weights)
    module.load_weights(list(weights.items()))
    if quantization == "4bit" and not packed:
        quantize_linears(module)
    module.eval()
    module.freeze()
    mx.eval(module.parameters())
    scale = math.sqrt(arch.hidden_size) if family.scaled_embedding else 1.0
    return BaseModel(
        module, arch, family, arch.windows, scale,
        tied="lm_head" not in module, parameters=count_parameters(module),
    )  # fmt: skip


def hidden_layers(base: BaseModel) -> list[nn.Module]:
    """The decoder layers in order."""
    module: Any = base.module
    return list(module.model.layers)


def _build_module(folder: Path, arch: Arch, family: Family) -> nn.Module:
    classes = import_models_module(family.module)
    arguments = model_arguments(folder, arch)
    # Layers draw start values, which those of the file replace: put the key back as if they had not.
    state: Any = mx.random.state
    high, low = state[0].tolist()
    try:
        module = classes.Model(classes.ModelArgs.from_dict(arguments))
    except (KeyError, TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
        raise ModelError(
            f"the model cannot be built: {type(error).__name__}: {error}"[:300],
            where=str(folder),
            hint="its config.json and weights must be those of one sound model",
            code="model.unreadable",
        ) from error
    finally:
        mx.random.seed(high << 32 | low)
    if arch.model_type == "gemma":
        _use_tanh_activation(module, arch)
    return module


def _use_tanh_activation(module: nn.Module, arch: Arch) -> None:
    """Gemma 1 computes the tanh form of GELU in transformers; mlx-lm's class has the exact one."""
    gated = import_models_module("gemma2").MLP
    for layer in module["model"]["layers"]:
        layer.mlp = gated(arch.hidden_size, arch.intermediate_size)


def _check_memory(folder: Path, dtype: mx.Dtype, quantization: str, memory_bytes: int | None) -> None:
    """Ask before reading: MLX shares memory with the rest of the machine, and too much ends the process."""
    need = 0
    for path in find_weights(folder):
        for entry in check_weights(path).values():
            kept = PACKED_BYTES if quantization == "4bit" and len(entry.shape) == 2 else dtype.size
            plain = entry.dtype in FLOAT_TYPES
            need += int(math.prod(entry.shape) * kept) if plain else entry.span[1] - entry.span[0]
    if memory_bytes and need > memory_bytes:
        raise EngineError(
            "the model is larger than the memory",
            where="model.name",
            got=f"{need / 2**30:.1f} GiB of weights",
            expected=f"at most {memory_bytes / 2**30:.1f} GiB",
            hint="take a smaller model, or set model.quantization: 4bit",
            code="engine.not-enough-memory",
        )


def _read_weights(folder: Path, module: nn.Module, dtype: mx.Dtype) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for path in find_weights(folder):
        try:
            loaded: Any = mx.load(str(path))
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"the weights cannot be read: {error}"[:300], where=str(path), code="model.unreadable"
            ) from error
        weights.update(loaded)
    if "lm_head" not in module:
        _drop_tied_head(folder, weights)
    sanitize: Any = getattr(module, "sanitize", dict)
    weights = sanitize(weights)
    return {
        name: values.astype(dtype) if mx.issubdtype(values.dtype, mx.floating) else values
        for name, values in weights.items()
        if not name.endswith("rotary_emb.inv_freq")
    }


def _drop_tied_head(folder: Path, weights: dict[str, mx.array]) -> None:
    """Leave out a stored head where the embedding serves as head. Raises ModelError when they differ: the
    class would compute with the embedding, and transformers with the head."""
    head, embedding = weights.pop("lm_head.weight", None), weights.get("model.embed_tokens.weight")
    if head is None or embedding is None or head.shape != embedding.shape:
        return
    if not mx.array_equal(head, embedding):
        raise ModelError(
            "the output head differs from the embedding that it is tied to",
            where=str(folder),
            got="lm_head.weight and tie_word_embeddings: true",
            hint="set tie_word_embeddings to false in its config.json if the head is right",
            code="model.tied-head",
        )


def _check_complete(folder: Path, module: nn.Module, weights: Mapping[str, mx.array]) -> None:
    places: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    missing = sorted(places.keys() - weights.keys())
    unknown = sorted(weights.keys() - places.keys())
    wrong = [n for n in sorted(places.keys() & weights.keys()) if places[n].shape != weights[n].shape]
    for what, names in (
        ("weights are missing", missing),
        ("weights have no place in the model", unknown),
        ("weights have another shape", wrong),
    ):
        if names:
            raise ModelError(
                what,
                where=str(folder),
                got=", ".join(names[:5]) + (" …" if len(names) > 5 else ""),
                hint="its config.json and weights must be those of one sound model",
                code="model.incomplete",
            )


def _check_finite(folder: Path, weights: Mapping[str, mx.array]) -> None:
    for name, values in weights.items():
        if mx.issubdtype(values.dtype, mx.floating) and not mx.isfinite(values).all().item():
            raise not_finite(folder, name)
