"""Attention over documents laid end to end, without a dense mask of the row.

Each document attends inside its own slice, so cost and memory follow the documents and not the row. The
function is registered with transformers under ATTENTION_NAME; the layout reaches it as the model's keyword
argument `documents`. What it cannot do it refuses, and attention_check.py then falls back to the model's
own eager attention.
"""

# B rows, T tokens of a row, S = B·T, N tokens of a document, K documents of a group, H heads, D head width

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from tunewright.engines.torch.fast.attention import HeadIndex, Heads, build_head_index

ATTENTION_NAME = "tunewright_documents"

# Documents up to this length are padded to a multiple of the step; longer ones waste more than a call costs.
LONGEST_GROUPED = 512
GROUP_STEP = 16

# Arguments of other families that change what attention computes; a value here means "not ours".
_FOREIGN = ("s_aux", "position_bias", "cache", "head_mask", "indices")


class UnsupportedAttentionError(ValueError):
    """The model asks for something this attention does not do."""


class Documents:
    """lengths[b]: lengths of the documents of row b in order; what is left of the row is padding.

    The index of a batch is built once and serves every layer.
    """

    def __init__(self, lengths: tuple[tuple[int, ...], ...]) -> None:
        self.lengths = lengths
        self.longest = max((length for row in lengths for length in row), default=0)
        self._index: _Index | None = None
        self._head_index: dict[Heads, HeadIndex] = {}

    def head_index(self, row_length: int, heads: Heads) -> HeadIndex:
        """The same for attention as matrix products: where each head of each token stands."""
        if heads not in self._head_index:
            index = self.index(row_length, torch.device("cpu"))
            groups_KN = [group_KN.numpy() for group_KN in index.groups_KN]
            self._head_index[heads] = build_head_index(groups_KN, len(index.places_BT), heads)
        return self._head_index[heads]

    def index(self, row_length: int, device: torch.device) -> _Index:
        """Where each token of a [B, row_length] batch stands in its group of documents."""
        if self._index is None:
            self._index = _build_index(self.lengths, row_length, device)
        return self._index


@dataclass(frozen=True, slots=True)
class _Index:
    """groups_KN: for each group, the flat position b·T + t of each token of K documents, those shorter than N
    padded at their end. places_BT: where the token at a flat position stands in the groups laid end to end;
    padding of the batch points one past the last."""

    groups_KN: tuple[torch.Tensor, ...]
    places_BT: torch.Tensor


def _build_index(lengths: tuple[tuple[int, ...], ...], row_length: int, device: torch.device) -> _Index:
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, documents in enumerate(lengths):
        start = row * row_length
        for length in documents:
            groups[_padded(length)].append((start, length))
            start += length
    arrays: list[torch.Tensor] = []
    places_BT = np.full(len(lengths) * row_length, -1, dtype=np.int64)
    slots = 0
    for padded, documents in sorted(groups.items()):
        starts_K = np.array([start for start, _ in documents])
        lengths_K = np.array([length for _, length in documents])
        steps_N = np.arange(padded)
        real_KN = steps_N < lengths_K[:, None]
        # A padded slot repeats the first token: finite values that nothing real ever attends to.
        flat_KN = starts_K[:, None] + np.where(real_KN, steps_N, 0)
        places_BT[flat_KN[real_KN]] = slots + np.flatnonzero(real_KN)
        slots += flat_KN.size
        arrays.append(torch.from_numpy(flat_KN).to(device))
    places_BT[places_BT < 0] = slots
    return _Index(tuple(arrays), torch.from_numpy(places_BT).to(device))


def _padded(length: int) -> int:
    """Short documents share a group with others of nearly their length: one call instead of many. Causal
    attention never looks at what follows, so padding at the end needs no mask."""
    return -(-length // GROUP_STEP) * GROUP_STEP if length <= LONGEST_GROUPED else length


@dataclass(frozen=True, slots=True)
class _Rule:
    scale: float | None
    window: int | None
    softcap: float | None
    dropout: float


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document; padding gets zeros.

    query [B, H, T, D], key and value [B, H or fewer, T, D] → [B, T, H, D]. Families add `softcap` and
    `sliding_window` w: a token sees itself and the w - 1 tokens before it. Raises UnsupportedAttentionError
    for what it does not do.
    """
    if documents is None:
        raise UnsupportedAttentionError("the model does not pass the document layout to its attention")
    _check_supported(module, attention_mask, kwargs)
    rule = _Rule(scaling, kwargs.get("sliding_window"), kwargs.get("softcap"), dropout)
    rows, heads, length, _ = query.shape
    index = documents.index(length, query.device)
    flat = [
        x_BHTD.transpose(1, 2).reshape(rows * length, x_BHTD.shape[1], -1) for x_BHTD in (query, key, value)
    ]
    outputs = [query.new_zeros(1, heads, value.shape[-1])]
    for group_KN in index.groups_KN:
        q_KHND, k_KHND, v_KHND = (x_SHD[group_KN].transpose(1, 2) for x_SHD in flat)
        out_KHND = _attend(q_KHND, k_KHND, v_KHND, rule)
        outputs.insert(-1, out_KHND.transpose(1, 2).reshape(-1, heads, value.shape[-1]).to(query.dtype))
    # The last slot is the zeros that padding points to.
    return torch.cat(outputs)[index.places_BT].view(rows, length, heads, -1), None


def _check_supported(
    module: torch.nn.Module, attention_mask: torch.Tensor | None, kwargs: dict[str, Any]
) -> None:
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise UnsupportedAttentionError("the model attends in both directions")
    if attention_mask is not None:
        raise UnsupportedAttentionError("the model brings a mask of its own")
    foreign = [name for name in _FOREIGN if kwargs.get(name) is not None]
    if foreign:
        raise UnsupportedAttentionError(f"the model's attention also takes {', '.join(foreign)}")


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: _Rule) -> torch.Tensor:
    length = query.shape[2]
    banded = rule.window is not None and length > rule.window
    if rule.softcap is None and not banded:
        return _sdpa(query, key, value, rule, None)
    # Blocks of queries bound the mask to block x (block + window) however long the document is.
    block = rule.window if banded and rule.window is not None else 1024
    blocks = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = max(0, start - rule.window + 1) if banded and rule.window is not None else 0
        mask = _band(start, stop, first, rule.window if banded else None, query.device)
        parts = (query[:, :, start:stop], key[:, :, first:stop], value[:, :, first:stop])
        blocks.append(_sdpa(*parts, rule, mask) if rule.softcap is None else _capped(*parts, rule, mask))
    return torch.cat(blocks, dim=2)


def _band(start: int, stop: int, first: int, window: int | None, device: torch.device) -> torch.Tensor:
    """bool [stop - start, stop - first]: may query position i see key position j?"""
    rows = torch.arange(start, stop, device=device)[:, None]
    columns = torch.arange(first, stop, device=device)[None, :]
    seen = columns <= rows
    return seen if window is None else seen & (columns > rows - window)


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: _Rule, mask: torch.Tensor | None
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    if query.device.type == "cpu":
        # The backward pass of the CPU kernel is several times slower in bf16 than in fp32.
        query, key, value = query.float(), key.float(), value.float()
    if grouped and query.device.type == "mps":
        key, value, grouped = _per_head(key, query), _per_head(value, query), False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=rule.dropout,
        is_causal=mask is None,
        scale=rule.scale,
        enable_gqa=grouped,
    )


def _capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: _Rule, mask: torch.Tensor
) -> torch.Tensor:
    """Gemma 2: scores go through cap · tanh(score / cap) before the softmax, which no fused kernel does."""
    scale = rule.scale if rule.scale is not None else query.shape[-1] ** -0.5
    scores = query @ _per_head(key, query).transpose(2, 3) * scale
    assert rule.softcap is not None
    scores = rule.softcap * torch.tanh(scores / rule.softcap)
    shares = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
    shares = F.dropout(shares, rule.dropout, training=rule.dropout > 0)
    return shares @ _per_head(value, query)


def _per_head(x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)


# No mask function goes with it: transformers then builds none, and the attention gets mask None.
AttentionInterface.register(ATTENTION_NAME, document_attention)
