"""Weighted next-token loss, computed only on the positions that have a label.

Their hidden states go through the output head in chunks, so that logits never exist for prompt or padding
positions, nor for more than one chunk at a time.
"""

# K documents, N tokens of a padded document, L labels, D model width, V vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from tunewright.engines.mlx.attention import head_logits, hidden_states
from tunewright.engines.mlx.load import BaseModel
from tunewright.engines.mlx.rows import Rows
from tunewright.models.activations import CHUNK_ELEMENTS


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """Rows on the device; see Rows for the fields."""

    tokens_KN: mx.array
    places_L: mx.array
    labels_L: mx.array
    weights_L: mx.array


def to_device(rows: Rows) -> DeviceRows:
    """Copy rows over."""
    return DeviceRows(
        mx.array(rows.tokens_KN), mx.array(rows.places_L), mx.array(rows.labels_L), mx.array(rows.weights_L)
    )


def rows_loss(
    base: BaseModel, rows: DeviceRows, *, checkpointed_layers: int = 0
) -> tuple[mx.array, mx.array]:
    """(Σ weight · negative log-likelihood, count of right argmaxes), both scalars."""
    hidden_KND = hidden_states(base, rows.tokens_KN, checkpointed_layers=checkpointed_layers)
    hidden_LD = hidden_KND.reshape(-1, hidden_KND.shape[-1])[rows.places_L]
    size = max(1, CHUNK_ELEMENTS // base.arch.vocab_size)
    if len(hidden_LD) <= size:
        return _sums(head_logits(base, hidden_LD), rows.labels_L, rows.weights_L)
    losses: list[mx.array] = []
    rights: list[mx.array] = []
    for start in range(0, len(hidden_LD), size):
        part = slice(start, start + size)
        loss, right = _recomputed_chunk(base, hidden_LD[part], rows.labels_L[part], rows.weights_L[part])
        losses.append(loss)
        rights.append(right)
    return mx.stack(losses).sum(), mx.stack(rights).sum()


def _recomputed_chunk(
    base: BaseModel, hidden_LD: mx.array, labels_L: mx.array, weights_L: mx.array
) -> tuple[mx.array, mx.array]:
    """Recomputing the logits of a chunk in the backward pass costs one matmul and saves L · V floats."""
    module: Any = base.module
    head = module.model.embed_tokens if base.tied else module.lm_head

    # What trains in the head must come in as an argument: gradients do not reach what is closed over.
    def run(trained: Any, hidden: mx.array) -> tuple[mx.array, mx.array]:
        head.update(trained)
        return _sums(head_logits(base, hidden), labels_L, weights_L)

    return mx.checkpoint(run)(head.trainable_parameters(), hidden_LD)


def _sums(logits_LV: mx.array, labels_L: mx.array, weights_L: mx.array) -> tuple[mx.array, mx.array]:
    logits_LV = logits_LV.astype(mx.float32)
    chosen_L = mx.take_along_axis(logits_LV, labels_L[:, None], axis=-1)[:, 0]
    nll_L = mx.logsumexp(logits_LV, axis=-1) - chosen_L
    right_L = (logits_LV.argmax(-1) == labels_L) & (weights_L > 0)
    return (nll_L * weights_L).sum(), right_L.sum()
