"""Decoding on the MLX engine, with the batched cache of mlx-lm. generator.py finds it by its table.

B rows, T tokens fed, S tokens in the cache with them, K tokens in play, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from tunewright.engines.mlx.attention import embed, head_logits
from tunewright.engines.mlx.classes import import_models_module
from tunewright.engines.mlx.device import on_device, prepare_device
from tunewright.engines.mlx.export import load_adapter
from tunewright.engines.mlx.load import BaseModel, hidden_layers, load_model
from tunewright.engines.mlx.lora import add_adapter
from tunewright.engines.mlx.precision import DTYPES, check_precision
from tunewright.inference.decoder import Decoder
from tunewright.models.adapter_files import read_adapter

# A long prompt goes in by pieces: the mask of a piece is [B, T, S].
_PIECE_TOKENS = 512


def load_decoders(folder: Path, adapter: Path | None, *, device: str, dtype: str) -> Callable[[], Decoder]:
    """Load model and adapter; what is returned makes a decoder for each batch."""
    check_precision(dtype, dtype)
    prepare_device(device)
    with on_device(device):
        base = load_model(folder, dtype=DTYPES[dtype])
        if adapter is not None:
            config = read_adapter(adapter).config
            add_adapter(base, config, seed=0)
            load_adapter(base, adapter, config)
            _store_as(base, DTYPES[dtype])
        mx.eval(base.module.parameters())
    return partial(MlxDecoder, base, device)


class MlxLogits:
    """Implements inference.decoder.Logits."""

    def __init__(self, logits_BV: mx.array) -> None:
        self._logits_BV = logits_BV

    def likeliest(self) -> NDArray[np.int64]:
        return np.array(self._logits_BV.argmax(axis=-1)).astype(np.int64)

    def top(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        tokens_BK = mx.argsort(-self._logits_BV, axis=-1)[:, : count or None]
        values_BK = mx.take_along_axis(self._logits_BV, tokens_BK, axis=-1).astype(mx.float32)
        return np.array(values_BK), np.array(tokens_BK).astype(np.int64)


class MlxDecoder:
    """Implements inference.decoder.Decoder: prompts are padded on the left."""

    def __init__(self, base: BaseModel, device: str) -> None:
        self._base, self._device = base, device
        self._caches: list[Any] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> MlxLogits:
        width = max(len(prompt) for prompt in prompts)
        padding = [width - len(prompt) for prompt in prompts]
        tokens = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
        cache_class = import_models_module("cache").BatchKVCache
        with on_device(self._device):
            self._caches = [cache_class(padding) for _ in hidden_layers(self._base)]
            tokens_BT = mx.array(tokens, mx.int32)
            for end in range(_PIECE_TOKENS, width, _PIECE_TOKENS):
                self._feed(tokens_BT[:, end - _PIECE_TOKENS : end])
                mx.eval([cache.state for cache in self._caches])
            return self._logits(tokens_BT[:, (width - 1) // _PIECE_TOKENS * _PIECE_TOKENS :])

    def next(self, tokens_B: NDArray[np.int64]) -> MlxLogits:
        with on_device(self._device):
            return self._logits(mx.array(tokens_B.astype(np.int32))[:, None])

    def keep(self, rows: Sequence[int]) -> None:
        with on_device(self._device):
            for cache in self._caches:
                cache.filter(mx.array(list(rows)))

    def _logits(self, tokens_BT: mx.array) -> MlxLogits:
        logits_BV = head_logits(self._base, self._feed(tokens_BT)[:, -1])
        mx.eval(logits_BV)
        return MlxLogits(logits_BV)

    def _feed(self, tokens_BT: mx.array) -> mx.array:
        """Hidden states of the fed tokens, [B, T, D]; their keys and values go to the caches."""
        inner: Any = self._base.module["model"]
        masks = self._masks(tokens_BT.shape[1])
        hidden_BTD = embed(self._base, tokens_BT)
        layers = zip(hidden_layers(self._base), self._base.windows, self._caches, strict=True)
        for layer, window, cache in layers:
            hidden_BTD = layer(hidden_BTD, masks[window], cache)
        return inner.norm(hidden_BTD)

    def _masks(self, count: int) -> dict[int | None, mx.array]:
        """Window → bool [B, 1, T, S]: may token i see token j? Padding sees itself: a row of a mask that
        sees nothing has no softmax. Where a family's own attention groups the heads, [B, 1, 1, T, S]."""
        cache = self._caches[0]
        masks = {window: cache.make_mask(count, window_size=window) for window in set(self._base.windows)}
        diagonal_TS = _diagonal(*masks[self._base.windows[0]].shape[-2:])
        arch = self._base.arch
        axes = (1, 2) if self._base.family.boolean_mask and arch.heads != arch.kv_heads else (1,)
        return {
            window: mx.expand_dims((mask | diagonal_TS).squeeze(1), axes) for window, mask in masks.items()
        }


def _diagonal(count: int, width: int) -> mx.array:
    """bool [T, S]: token i itself, the last T of S."""
    return mx.eye(count, width, k=width - count).astype(mx.bool_)


def _store_as(base: BaseModel, dtype: mx.Dtype) -> None:
    """Biases and modules trained in full are fp32 in an adapter; in the base they must be as the rest."""
    trained: dict[str, Any] = dict(tree_flatten(base.module.trainable_parameters()))
    tree: Any = tree_unflatten(
        [(name, values.astype(dtype)) for name, values in trained.items() if ".lora_" not in name]
    )
    base.module.update(tree)
