"""Decoding on the MLX engine, with the batched cache of mlx-lm. mlx_base.py loads the model.

B rows, T tokens fed, S tokens in the cache with them, K tokens in play, V vocabulary, N changes,
R rows of a grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from tunewright.engines.mlx.attention import embed, head_logits
from tunewright.engines.mlx.classes import import_models_module
from tunewright.engines.mlx.device import on_device
from tunewright.engines.mlx.load import BaseModel, hidden_layers
from tunewright.inference.decoder import PromptScores

# A long prompt goes in by pieces: the mask of a piece is [B, T, S].
_PIECE_TOKENS = 512


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

    def masses(self, temperatures_B: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled_BV = self._logits_BV.astype(mx.float32) / mx.array(temperatures_B)[:, None]
        return np.array(mx.logsumexp(scaled_BV, axis=-1))

    def of(self, tokens_B: NDArray[np.int64]) -> NDArray[np.float32]:
        places_B1 = mx.array(tokens_B)[:, None]
        return np.array(mx.take_along_axis(self._logits_BV, places_B1, axis=-1)[:, 0].astype(mx.float32))

    def rows(self, places: Sequence[int]) -> MlxLogits:
        return MlxLogits(self._logits_BV[mx.array(list(places))])

    def changed(
        self, rows_N: NDArray[np.int64], tokens_N: NDArray[np.int64], amounts_N: NDArray[np.float32]
    ) -> MlxLogits:
        logits_BV = self._logits_BV.astype(mx.float32)
        return MlxLogits(logits_BV.at[mx.array(rows_N), mx.array(tokens_N)].add(mx.array(amounts_N)))

    def masked(self, rows_R: NDArray[np.int64], allowed_RV: NDArray[np.bool_]) -> MlxLogits:
        rows, vocabulary = self._logits_BV.shape
        width = min(allowed_RV.shape[1], vocabulary)
        allowed_BV = np.ones((rows, vocabulary), np.bool_)
        allowed_BV[rows_R] = False
        allowed_BV[rows_R, :width] = allowed_RV[:, :width]
        return MlxLogits(
            mx.where(mx.array(allowed_BV.view(np.uint8)).astype(mx.bool_), self._logits_BV, -mx.inf)
        )


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

    def can_join(self) -> bool:
        return True

    def join(self, other: Self) -> None:
        with on_device(self._device):
            for cache, added in zip(self._caches, other._caches, strict=True):
                cache.extend(added)

    def score(self, prompt: Sequence[int], count: int) -> PromptScores:
        cache_class = import_models_module("cache").BatchKVCache
        parts: list[tuple[mx.array, mx.array, mx.array]] = []
        with on_device(self._device):
            self._caches = [cache_class([0]) for _ in hidden_layers(self._base)]
            for start in range(0, len(prompt) - 1, _PIECE_TOKENS):
                piece = list(prompt[start : min(start + _PIECE_TOKENS, len(prompt) - 1)])
                labels_T1 = mx.array(list(prompt[start + 1 : start + 1 + len(piece)]))[:, None]
                logits_TV = head_logits(self._base, self._feed(mx.array([piece], mx.int32))[0])
                logits_TV = logits_TV.astype(mx.float32)
                log_probs_TV = logits_TV - mx.logsumexp(logits_TV, axis=-1, keepdims=True)
                tokens_TK = mx.argsort(-log_probs_TV, axis=-1)[:, :count]
                chosen_T = mx.take_along_axis(log_probs_TV, labels_T1, axis=-1)[:, 0]
                parts.append((chosen_T, mx.take_along_axis(log_probs_TV, tokens_TK, axis=-1), tokens_TK))
                mx.eval(parts[-1])
        chosen, values, tokens = (np.concatenate([np.array(p[i]) for p in parts]) for i in range(3))
        return chosen, values, tokens.astype(np.int64)

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
