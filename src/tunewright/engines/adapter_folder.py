"""Adapter exports and starts from them, for every engine: arrays in, a proven folder out, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tunewright.arrays import read_arrays
from tunewright.config.schema import AdapterConfig
from tunewright.engines.protocol import EngineSpec
from tunewright.errors import EngineError, ModelError
from tunewright.models.adapter_files import PLAIN_LAYERS, LayerNames, read_adapter, write_adapter
from tunewright.models.adapter_keys import B_SUFFIX
from tunewright.models.mlx_adapter import MLX_ARRAYS_FILE, find_obstacle, to_mlx_arrays
from tunewright.models.sanitise import read_json
from tunewright.types import Array


def export_arrays(
    folder: Path,
    arrays: Mapping[str, Array],
    spec: EngineSpec,
    targets: Sequence[str],
    layers: LayerNames = PLAIN_LAYERS,
) -> Mapping[str, object]:
    """Write what trains as an adapter of PEFT, and of mlx-lm where it can hold it, and read it back.

    arrays: by canonical name, LoRA ones fp32 in PEFT's layout. targets: full names of the adapted modules.
    Returns the certificate. Raises EngineError when what was read differs.
    """
    obstacle = find_obstacle(spec.adapter, targets, read_json(spec.model_folder / "config.json"))
    write_adapter(
        folder,
        arrays,
        spec.adapter,
        base_name=spec.model_name,
        targets=targets,
        layers=layers,
        for_mlx=obstacle is None,
    )
    equal = _are_equal(read_adapter(folder).arrays, arrays)
    if obstacle is None:
        equal = equal and _are_equal(read_arrays(folder / MLX_ARRAYS_FILE), to_mlx_arrays(arrays))
    if not equal:
        raise EngineError(
            "the adapter read back differs from the one in memory",
            where=str(folder),
            hint="check the disk, then export again",
            code="engine.certificate",
        )
    return {
        "kind": "adapter",
        "arrays": len(arrays),
        "keys_equal": True,
        "bytes_equal": True,
        "changes_the_base": any(_has_values(arrays[name]) for name in arrays if name.endswith(B_SUFFIX)),
        "mlx_lm": MLX_ARRAYS_FILE if obstacle is None else f"left out: {obstacle}",
    }


def read_start(
    folder: Path, config: AdapterConfig, shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, Array]:
    """The arrays of a PEFT adapter for a model that trains `shapes` under `config`.

    Raises ModelError unless names and shapes fit, both ways, and the adapter was trained under the same
    scale.
    """
    files = read_adapter(folder)
    _check_scale(folder, files.config, config)
    found = files.arrays
    missing, unknown = sorted(shapes.keys() - found.keys()), sorted(found.keys() - shapes.keys())
    wrong = [name for name in sorted(shapes.keys() & found.keys()) if found[name].shape != shapes[name]]
    for what, names in (("lacks", missing), ("also holds", unknown), ("has another shape of", wrong)):
        if names:
            raise ModelError(
                f"the adapter {what} {len(names)} arrays",
                where=str(folder),
                got=", ".join(names[:3]),
                hint="give rank, targets, bias and modules_to_save as in its adapter_config.json",
                code="model.adapter-mismatch",
            )
    return found


def _check_scale(folder: Path, trained: AdapterConfig, wanted: AdapterConfig) -> None:
    """The same arrays under another scale are another model, and nothing else would show it."""
    before, now = (f"alpha {c.alpha:g}, rslora {str(c.rslora).lower()}" for c in (trained, wanted))
    if before != now:
        raise ModelError(
            "the adapter was trained under another scale",
            where=str(folder),
            got=now,
            expected=before,
            hint="give adapter.alpha and adapter.rslora as in its adapter_config.json",
            code="model.adapter-mismatch",
        )


def _are_equal(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].shape == array.shape and bytes(found[name].data) == bytes(array.data)
        for name, array in wanted.items()
    )


def _has_values(array: Array) -> bool:
    return bool(np.frombuffer(array.data, dtype=np.uint8).any())
