"""Adapter folders in the format of PEFT: adapter_config.json and adapter_model.safetensors.

Inside the project an array is named as in the model (`model.layers.0.self_attn.q_proj.lora_A.weight`); in the
file it carries PEFT's prefix. Names of biases (`….base_layer.bias`) and of modules saved in full
(`lm_head.weight`) are PEFT's as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from tunewright.arrays import ArrayFileError, read_arrays, write_arrays
from tunewright.config.schema import AdapterConfig
from tunewright.errors import ModelError
from tunewright.files import write_json
from tunewright.models.adapter_keys import check_arrays
from tunewright.models.lora import ALL_LINEAR, is_named
from tunewright.models.mlx_adapter import MLX_ARRAYS_FILE, MLX_SETTINGS, mlx_settings, to_mlx_arrays
from tunewright.types import Array, JsonValue

CONFIG_FILE = "adapter_config.json"
ARRAYS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

# Every key that PEFT 0.18 writes for LoRA and that we always write so; read, any other value is refused.
_FIXED: dict[str, JsonValue] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_bias": False,
    "megatron_config": None,
    "qalora_group_size": 16,
    "rank_pattern": {},
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
}
_WRITTEN: dict[str, JsonValue] = {
    "auto_mapping": None,
    "inference_mode": True,
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "revision": None,
}
# Keys that say nothing about what the adapter computes.
_IGNORED = {
    *_WRITTEN,
    *MLX_SETTINGS,
    # How the base stores its weight, which PEFT sees for itself; the arrays are the same.
    "fan_in_fan_out",
    "task_type",
    "peft_version",
    "base_model_name_or_path",
    "qalora_group_size",
}
_READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "bias",
    "modules_to_save",
    "use_rslora",
}
# Ways to start that leave the base weights as they are; the others (pissa, olora, corda, loftq) change them.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class LayerNames:
    """The adapted layers of a base. are_transposed: weights are [in, out]. share_names: something without an
    adapter has a name with the same last part, or is named so by PEFT, as weights of experts are."""

    are_transposed: bool = False
    share_names: bool = False


PLAIN_LAYERS = LayerNames()


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A PEFT adapter read from disk. base_name: the base it was trained on, as its config says, or None."""

    config: AdapterConfig
    arrays: Mapping[str, Array]
    base_name: str | None


def write_adapter(
    folder: Path,
    arrays: Mapping[str, Array],
    config: AdapterConfig,
    *,
    base_name: str,
    targets: Sequence[str],
    layers: LayerNames = PLAIN_LAYERS,
    for_mlx: bool = False,
) -> None:
    """Write an adapter that PEFT loads, and mlx-lm too. targets: full names of the modules that have LoRA.

    layers: what PEFT has to know of the base beside them. for_mlx: whether mlx-lm can hold it, as
    mlx_adapter.find_obstacle says.

    Raises ModelError when arrays and settings do not belong together, before anything is written.
    """
    saved = _saved_modules(arrays, config)
    check_arrays(arrays, config, targets=targets, where=str(folder))
    settings: dict[str, JsonValue] = {
        **_FIXED,
        **_WRITTEN,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "bias": config.bias,
        "use_rslora": config.rslora,
        "fan_in_fan_out": layers.are_transposed,
        "target_modules": list[JsonValue](sorted(targets))
        if layers.share_names
        else _target_modules(config, targets, bool(saved)),
        "modules_to_save": cast("list[JsonValue]", saved) or None,
        **(mlx_settings(config, targets) if for_mlx else {}),
    }
    if for_mlx:
        write_arrays(folder / MLX_ARRAYS_FILE, to_mlx_arrays(arrays), {"format": "mlx"})
    write_arrays(
        folder / ARRAYS_FILE, {PREFIX + name: array for name, array in arrays.items()}, {"format": "pt"}
    )
    write_json(folder / CONFIG_FILE, settings)


def read_adapter(folder: Path) -> AdapterFiles:
    """Read and check a PEFT LoRA adapter: settings, array names against settings, settings against arrays.

    Arrays are views into a memory map. Raises ModelError naming the file and what is not supported.
    """
    settings = _read_settings(folder)
    config = _parse_settings(settings, folder / CONFIG_FILE)
    arrays = _read_arrays(folder)
    check_arrays(arrays, config, targets=None, where=str(folder / ARRAYS_FILE))
    base = settings.get("base_model_name_or_path")
    return AdapterFiles(config, arrays, base if isinstance(base, str) and base else None)


def is_adapter_folder(folder: Path) -> bool:
    """Whether the folder holds an adapter rather than a model."""
    return (folder / CONFIG_FILE).is_file()


def read_base_name(folder: Path) -> str:
    """The base model that an adapter names. Raises ModelError when it names none."""
    base = _read_settings(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            "the adapter does not name its base model",
            where=str(folder / CONFIG_FILE),
            expected="base_model_name_or_path",
            hint=f"name the base: tunewright generate BASE --adapter {folder}",
            code="model.adapter-base",
        )
    return base


def _target_modules(config: AdapterConfig, targets: Sequence[str], saves_modules: bool) -> JsonValue:
    """What PEFT matches to `targets`. Last parts read best, but could match inside a saved module too."""
    if config.targets != ALL_LINEAR:
        return config.targets if isinstance(config.targets, str) else list(config.targets)
    names = set(targets) if saves_modules else {name.rpartition(".")[2] for name in targets}
    return list[JsonValue](sorted(names))


def _saved_modules(arrays: Mapping[str, Array], config: AdapterConfig) -> list[str]:
    """Full names of modules saved in full: PEFT matches mere endings, so `norm` would be `layernorm` too."""
    found: set[str] = set()
    for name in arrays:
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(1, len(parts)))
        found.update(
            prefix for prefix in prefixes if any(is_named(prefix, m) for m in config.modules_to_save)
        )
    return sorted(found)


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            "there is no adapter here",
            where=str(folder),
            expected=f"{CONFIG_FILE} and {ARRAYS_FILE}",
            hint="name an export folder of a run, such as runs/NAME/exports/final",
            code="model.no-adapter",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"the adapter's settings cannot be read: {error}", where=str(path), code="model.bad-adapter"
        ) from error
    if not isinstance(settings, dict):
        raise ModelError(
            "the adapter's settings are not a mapping", where=str(path), code="model.bad-adapter"
        )
    return cast("dict[str, Any]", settings)


def _parse_settings(settings: Mapping[str, Any], path: Path) -> AdapterConfig:
    if settings.get("peft_type") != "LORA":
        raise _unsupported(path, "peft_type", settings.get("peft_type"), "LORA")
    if settings.get("init_lora_weights") not in _PLAIN_STARTS:
        raise _unsupported(
            path, "init_lora_weights", settings["init_lora_weights"], "a start that keeps the base"
        )
    for key, value in settings.items():
        if key not in _READ | _IGNORED and value and value != _FIXED.get(key):
            raise _unsupported(path, key, value, "plain LoRA")
    try:
        return AdapterConfig(
            rank=settings["r"],
            alpha=settings.get("lora_alpha", 8),
            dropout=settings.get("lora_dropout") or 0.0,
            targets=_plain_targets(settings["target_modules"]),
            bias=settings.get("bias", "none"),
            modules_to_save=tuple(settings.get("modules_to_save") or ()),
            rslora=settings.get("use_rslora") or False,
        )
    except KeyError as error:
        raise ModelError(
            "a setting is missing", where=str(path), expected=str(error.args[0]), code="model.bad-adapter"
        ) from error
    except (ValidationError, TypeError) as error:
        raise ModelError(
            f"the adapter's settings are wrong: {str(error).splitlines()[0]}",
            where=str(path),
            code="model.bad-adapter",
        ) from error


def _plain_targets(value: Any) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def _unsupported(path: Path, key: str, value: object, expected: str) -> ModelError:
    return ModelError(
        f"the adapter uses {key}, which is not supported",
        where=str(path),
        got=json.dumps(value)[:100],
        expected=expected,
        hint="merge it into its base with PEFT and use the merged model as the base",
        code="model.adapter-kind",
    )


def _read_arrays(folder: Path) -> dict[str, Array]:
    path = folder / ARRAYS_FILE
    try:
        arrays = read_arrays(path)
    except FileNotFoundError as error:
        pickled = folder / "adapter_model.bin"
        raise ModelError(
            "the adapter is a pickle file, which can run code when opened"
            if pickled.exists()
            else "the adapter has no arrays",
            where=str(pickled if pickled.exists() else folder),
            expected=ARRAYS_FILE,
            hint="save it again with safe_serialization=True",
            code="model.pickle" if pickled.exists() else "model.no-adapter",
        ) from error
    except (ArrayFileError, OSError) as error:
        raise ModelError(
            f"the file is not a sound safetensors file: {error}", where=str(path), code="model.bad-arrays"
        ) from error
    foreign = [name for name in arrays if not name.startswith(PREFIX)]
    if foreign:
        raise ModelError(
            "the array is not named as PEFT names it",
            where=str(path),
            got=foreign[0],
            expected=f"{PREFIX}…",
            code="model.adapter-keys",
        )
    return {name.removeprefix(PREFIX): array for name, array in arrays.items()}
