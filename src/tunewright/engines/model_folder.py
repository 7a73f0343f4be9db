"""Whole models as Hugging Face folders, for every engine: shards of safetensors and config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunewright.arrays import write_arrays
from tunewright.engines.protocol import EngineSpec
from tunewright.files import write_file, write_json
from tunewright.types import Array

# Large enough for few files, small enough to fetch again when one breaks.
SHARD_BYTES = 4 * 2**30

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Weights(Protocol):
    """Name → weight, made when it is asked for, so that one tensor at a time is in memory twice."""

    def __getitem__(self, name: str, /) -> Array: ...

    def __iter__(self) -> Iterator[str]: ...

    def size_bytes(self, name: str) -> int:
        """Bytes of one weight in the file."""
        ...


def write_model(folder: Path, weights: Weights, spec: EngineSpec, *, tied: bool) -> None:
    """Write `weights`, and a config.json that says their type and whether the head is the embedding."""
    _write_shards(folder, weights)
    _write_config(folder, spec, tied=tied)


def _write_shards(folder: Path, weights: Weights) -> None:
    shards: list[list[str]] = [[]]
    size = total = 0
    for name in weights:
        if shards[-1] and size + weights.size_bytes(name) > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += weights.size_bytes(name)
        total += weights.size_bytes(name)
    if len(shards) == 1:
        write_arrays(folder / "model.safetensors", _Shard(weights, shards[0]), {"format": "pt"})
        return
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_arrays(folder / file, _Shard(weights, names), {"format": "pt"})
        index.update(dict.fromkeys(names, file))
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": {**index}},
    )


class _Shard(Mapping[str, Array]):
    """Some of the weights, still made on demand."""

    def __init__(self, weights: Weights, names: Sequence[str]) -> None:
        self._weights, self._names = weights, names

    def __getitem__(self, name: str) -> Array:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _write_config(folder: Path, spec: EngineSpec, *, tied: bool) -> None:
    config: dict[str, Any] = json.loads((spec.model_folder / "config.json").read_text(encoding="utf-8"))
    # A base that came packed is written unpacked.
    for name in ("torch_dtype", "quantization", "quantization_config"):
        config.pop(name, None)
    config["dtype"] = _DTYPES[spec.dtype]
    config["tie_word_embeddings"] = tied
    write_json(folder / "config.json", config)
    generation = spec.model_folder / "generation_config.json"
    if generation.exists():
        write_file(folder / generation.name, [generation.read_bytes()])
