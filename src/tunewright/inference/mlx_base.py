"""A base model on the MLX engine, and adapters on top of it that share its weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from tunewright.engines.mlx.device import on_device, prepare_device
from tunewright.engines.mlx.export import load_adapter
from tunewright.engines.mlx.load import BaseModel, load_model
from tunewright.engines.mlx.lora import add_adapter
from tunewright.engines.mlx.precision import DTYPES
from tunewright.engines.number_formats import check_formats
from tunewright.inference.decoder import Decoders
from tunewright.inference.mlx_decoder import MlxDecoder
from tunewright.models.adapter_files import read_adapter


def load_base(folder: Path, *, device: str, dtype: str) -> MlxBase:
    """Load a model for answering. Raises ModelError, EngineError and EngineOutOfMemory."""
    check_formats(dtype, dtype)
    prepare_device(device)
    with on_device(device):
        return MlxBase(load_model(folder, dtype=DTYPES[dtype]), device, DTYPES[dtype])


class MlxBase:
    """Implements inference.decoder.Base."""

    def __init__(self, base: BaseModel, device: str, dtype: mx.Dtype) -> None:
        self._base, self._device, self._dtype = base, device, dtype
        self.bytes = sum(array.nbytes for array in _arrays(base).values())

    def decoders(self) -> Decoders:
        return partial(MlxDecoder, self._base, self._device)

    def adapted(self, adapter: Path) -> tuple[Decoders, int]:
        config = read_adapter(adapter).config
        with on_device(self._device):
            base = _share(self._base)
            add_adapter(base, config, seed=0)
            load_adapter(base, adapter, config)
            _store_as(base, self._dtype)
            mx.eval(base.module.parameters())
        shared = {id(array) for array in _arrays(self._base).values()}
        own = sum(array.nbytes for array in _arrays(base).values() if id(array) not in shared)
        return partial(MlxDecoder, base, self._device), own


def _share(base: BaseModel) -> BaseModel:
    """The same modules anew with the very same arrays. An array never changes, so nobody can change one."""
    shared = {id(array): array for array in _arrays(base).values()}
    return replace(base, module=copy.deepcopy(base.module, shared))


def _arrays(base: BaseModel) -> dict[str, mx.array]:
    return dict(tree_flatten(base.module.parameters()))


def _store_as(base: BaseModel, dtype: mx.Dtype) -> None:
    """Biases and modules trained in full are fp32 in an adapter; in the base they must be as the rest."""
    trained: dict[str, Any] = dict(tree_flatten(base.module.trainable_parameters()))
    tree: Any = tree_unflatten(
        [(name, values.astype(dtype)) for name, values in trained.items() if ".lora_" not in name]
    )
    base.module.update(tree)
