"""config.json through an allow-list, before any engine reads it.

A model's config can name code to run (auto_map, model_file) and kernels to fetch (the implementation keys).
A key stays only when the native code of the model's type reads it, its name is plain and its value is plain
JSON. Keys that ask for code are refused by name where they would run although nobody asked, and left out with
a warning where the native type does without. Keys that begin with an underscore are a library's own notes:
left out like any other that the type does not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from tunewright.errors import ModelError
from tunewright.models.native import causal_types, config_defaults, config_types, keys_read
from tunewright.types import JsonValue

# Which function computes a layer: these come with transformers, any other name is code to fetch.
_OWN_IMPLEMENTATIONS = {
    "batched_mm",
    "eager",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
    "grouped_mm",
    "sdpa",
}
# How transformers writes a number that JSON has no word for, and what it stands for.
FLOAT_TAG = "__float__"
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}
_QUANTIZED = ("quantization_config", "quantization", "compression_config")
_CODE_LEFT_OUT = {"auto_map", "custom_pipelines", "trust_remote_code", "code_revision", "name_or_path"}
_CODE_REFUSED = {"model_file"}
_PER_LAYER = "per_layer_config"
_DTYPES = {"auto", "float32", "float16", "bfloat16"}
_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def filter_config(config: Mapping[str, Any], where: str) -> tuple[dict[str, JsonValue], tuple[str, ...]]:
    """What of config.json the engines may read, and a warning for each key that asked for code.

    Raises ModelError for a type that is not native or no causal language model, and for refused keys.
    """
    model_type = _check_type(config, where)
    _check_head(config, model_type, where)
    packed = _mlx_quantization(config)
    for key in _QUANTIZED:
        if config.get(key) and config[key] != packed:
            raise ModelError(
                "quantised weights of this kind cannot be trained here",
                where=where,
                got=_method(key, config[key]),
                hint="use the model's unquantised version",
                code="model.quantized",
            )
    warnings: list[str] = []
    clean = _filter(config, keys_read(model_type), where, warnings)
    return ({**clean, "quantization": packed} if packed else clean), tuple(warnings)


def _mlx_quantization(config: Mapping[str, Any]) -> dict[str, JsonValue] | None:
    """How MLX packed the weights, which its engine trains on: sizes for all layers, and for some by name.

    mlx-lm writes it twice, the second time as quantization_config.
    """
    given: object = config.get("quantization")
    if not isinstance(given, dict):
        return None
    packed = cast("dict[str, Any]", given)
    layers = [
        packed,
        *(cast("dict[str, Any]", layer) for layer in packed.values() if isinstance(layer, dict)),
    ]
    return packed if all(map(_is_affine, layers)) else None


def _is_affine(layer: Mapping[str, Any]) -> bool:
    """Whether a layer, or all, is packed in plain groups. A name may also stand for `not packed`."""
    sizes = (layer.get("group_size"), layer.get("bits"))
    others = [value for key, value in layer.items() if key not in ("group_size", "bits", "mode")]
    return (
        all(type(size) is int for size in sizes)
        and layer.get("mode", "affine") == "affine"
        and all(isinstance(value, (dict, bool)) for value in others)
    )


def _method(key: str, value: object) -> str:
    method: object = cast("dict[str, Any]", value).get("quant_method") if isinstance(value, dict) else None
    return f"{key} ({method})" if isinstance(method, str) else key


def _check_type(config: Mapping[str, Any], where: str) -> str:
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in causal_types():
        return model_type
    if not isinstance(model_type, str):
        raise ModelError(
            "the config does not say what the model is",
            where=where,
            expected="model_type",
            hint="the folder must hold a Hugging Face causal language model",
            code="model.no-type",
        )
    if "auto_map" in config or model_type not in config_types():
        raise ModelError(
            f"model type {model_type} needs remote code, which never runs here",
            where=where,
            expected="a type native to the installed transformers",
            hint="a newer transformers may know the type; a model of your own can be saved as a native type",
            code="model.remote-code",
        )
    raise ModelError(
        f"model type {model_type} is no causal language model", where=where, code="model.not-causal"
    )


def _check_head(config: Mapping[str, Any], model_type: str, where: str) -> None:
    given: object = config.get("architectures")
    named = cast("list[object]", given) if isinstance(given, list) else [given] if given else []
    native = causal_types()[model_type]
    if named and not any(
        isinstance(name, str) and (name == native or name.endswith(_HEADS)) for name in named
    ):
        raise ModelError(
            "the model has no language-model head",
            where=where,
            got=f"architectures {named}",
            expected=native,
            code="model.not-causal",
        )
    paired = {**config_defaults(model_type), **config}.get("is_encoder_decoder")
    if paired and native not in named:
        # Its decoder alone would load, and train without what it was made to read.
        raise ModelError(
            "the model is an encoder and a decoder",
            where=where,
            got=f"architectures {named}",
            expected=f"a decoder alone: {native}",
            code="model.not-causal",
        )


def _filter(
    config: Mapping[str, Any], allowed: frozenset[str], where: str, warnings: list[str], path: str = ""
) -> dict[str, JsonValue]:
    """One level of the config: a config of a model, so every key must be one that its code reads."""
    clean: dict[str, JsonValue] = {}
    for key, value in config.items():
        name = f"{path}{key}"
        # Danger first: what asks for code is named also where no native code reads it.
        if _is_dangerous(key, value, name, where, warnings) or key not in allowed:
            continue
        if key in ("torch_dtype", "dtype") and value not in _DTYPES:
            continue
        if isinstance(value, dict) and _is_model_config(key, cast("dict[str, Any]", value)):
            nested = cast("dict[str, Any]", value)
            readable = allowed | _keys_of(nested, name, where)
            if key == _PER_LAYER:
                clean[key] = _filter_layers(nested, readable, where, warnings, name)
            else:
                clean[key] = _filter(nested, readable, where, warnings, f"{name}.")
        else:
            clean[key] = _plain(value, name, where, warnings)
    return clean


def _filter_layers(
    layers: Mapping[str, Any], allowed: frozenset[str], where: str, warnings: list[str], name: str
) -> dict[str, JsonValue]:
    """What single layers set otherwise than the config around them, by their number."""
    return {
        number: _filter(cast("dict[str, Any]", settings), allowed, where, warnings, f"{name}.{number}.")
        for number, settings in layers.items()
        if number.isdecimal() and isinstance(settings, dict)
    }


def _is_model_config(key: str, value: Mapping[str, Any]) -> bool:
    return key.endswith("_config") or "model_type" in value


def _keys_of(config: Mapping[str, Any], name: str, where: str) -> frozenset[str]:
    model_type = config.get("model_type")
    if (
        model_type is None or model_type == ""
    ):  # a part without a type of its own: "" as transformers saves it
        return frozenset()
    if not isinstance(model_type, str) or model_type not in config_types():
        raise ModelError(
            f"{name} is of a type that needs remote code, which never runs here",
            where=where,
            got=repr(model_type),
            code="model.remote-code",
        )
    return keys_read(model_type)


def _plain(value: Any, name: str, where: str, warnings: list[str]) -> JsonValue:
    """A value whose mappings (rope settings, label names, generation settings) have free keys."""
    if isinstance(value, list):
        return [_plain(item, name, where, warnings) for item in cast("list[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return _tagged(value, name, where)
    if not isinstance(value, dict):
        return value
    settings = cast("dict[str, Any]", value)
    if set(settings) == {FLOAT_TAG}:
        return _tagged(settings[FLOAT_TAG], name, where)
    return {
        key: _plain(item, f"{name}.{key}", where, warnings)
        for key, item in settings.items()
        if not _is_dangerous(key, item, f"{name}.{key}", where, warnings) and not key.startswith("_")
    }


def _tagged(value: object, name: str, where: str) -> JsonValue:
    """Infinity as transformers writes it, whichever way it was written: other readers of the copy take no
    number that is not JSON."""
    for word, number in _INFINITE.items():
        if value in (word, number):
            return {FLOAT_TAG: word}
    raise ModelError(
        f"{name} is no number",
        where=where,
        got=repr(value),
        expected="a number, Infinity or -Infinity",
        code="model.bad-config",
    )


def _is_dangerous(key: str, value: object, name: str, where: str, warnings: list[str]) -> bool:
    """Whether the key must be left out. Raises ModelError where leaving it out would hide an attack."""
    private = key.startswith("_")
    if key in _CODE_REFUSED or (private and "implementation" in key and _names_foreign(value)):
        raise ModelError(
            f"the config has the key {name}, which can make a library run code",
            where=where,
            hint="if you trust the model and it does without, delete the key from its config.json",
            code="model.unsafe-config",
        )
    if key in _CODE_LEFT_OUT or (key.endswith("_implementation") and not private):
        if key != "name_or_path":
            warnings.append(f"{where}: {name} was left out; only the code of transformers itself runs")
        return True
    return not private and re.fullmatch(r"[A-Za-z0-9][\w .:/-]*", key) is None


def _names_foreign(value: object) -> bool:
    """Whether a value names a function that does not come with transformers, itself or for a part."""
    if isinstance(value, dict):
        return any(map(_names_foreign, cast("dict[str, object]", value).values()))
    return value not in _OWN_IMPLEMENTATIONS and value is not None and not isinstance(value, bool)
