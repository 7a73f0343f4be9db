"""Rows in and out of a key-value cache of transformers: what its own classes do not do.

B rows, S places. Rows are padded on the left, so that all have their newest token in the last place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# Exactly these: a subclass may keep more than keys and values.
_KNOWN = (DynamicLayer, DynamicSlidingWindowLayer)


def can_join(cache: Any) -> bool:
    """Whether every layer keeps keys and values only, so that rows of two caches can stand in one."""
    return all(type(layer) in _KNOWN and layer.is_initialized for layer in cache.layers)


def join_caches(cache: Any, other: Any) -> None:
    """Put the rows of `other` after those of `cache`. Both must be such as can_join says."""
    for layer, added in zip(cache.layers, other.layers, strict=True):
        width = max(layer.keys.shape[-2], added.keys.shape[-2])
        layer.keys = torch.cat([_widen(layer.keys, width), _widen(added.keys, width)])
        layer.values = torch.cat([_widen(layer.values, width), _widen(added.values, width)])
        if layer.is_sliding:
            layer.cumulative_length = max(layer.cumulative_length, added.cumulative_length)


def select_rows(cache: Any, rows_B: torch.Tensor, unused: int) -> int:
    """Keep these rows, and without the first `unused` places where the cache is of a known kind.

    Returns the number of places that were taken away.
    """
    # Its batch_select_indices() forgets the state of layers that keep one.
    cache.reorder_cache(rows_B)
    if not unused or not can_join(cache):
        return 0
    for layer in cache.layers:
        width: int = layer.keys.shape[-2]
        if layer.is_sliding:
            layer.cumulative_length -= unused
            width = min(width, layer.cumulative_length)
        else:
            width -= unused
        layer.keys, layer.values = layer.keys[..., -width:, :], layer.values[..., -width:, :]
    return unused


def _widen(states: torch.Tensor, width: int) -> torch.Tensor:
    return F.pad(states, (0, 0, width - states.shape[-2], 0))
