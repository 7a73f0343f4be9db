"""Attention over documents laid end to end, without a dense mask of the row.

Each document attends inside its own slice, so cost and memory follow the documents and not the row. The
function is registered with transformers under ATTENTION_NAME; the layout reaches it as the model's keyword
argument `documents`. What it cannot do it refuses, and attention_check.py then falls back to the model's
own eager attention.
"""

# B rows, T tokens of a row, N tokens of a document, K documents of equal length, H heads, D head width

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

ATTENTION_NAME = "tunewright_documents"

# Arguments of other families that change what attention computes; a value here means "not ours".
_FOREIGN = ("s_aux", "position_bias", "cache", "head_mask", "indices")


class UnsupportedAttentionError(ValueError):
    """The model asks for something this attention does not do."""


@dataclass(frozen=True, slots=True)
class Documents:
    """lengths[b]: lengths of the documents of row b in order; what is left of the row is padding."""

    lengths: tuple[tuple[int, ...], ...]

    def by_length(self) -> dict[int, list[tuple[int, int]]]:
        """Length → (row, start) of each document that long."""
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, lengths in enumerate(self.lengths):
            start = 0
            for length in lengths:
                places[length].append((row, start))
                start += length
        return places


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
    pieces: dict[tuple[int, int], torch.Tensor] = {}
    for length, places in documents.by_length().items():
        q_KHND, k_KHND, v_KHND = (_gather(x_BHTD, places, length) for x_BHTD in (query, key, value))
        out_KHND = _attend(q_KHND, k_KHND, v_KHND, rule)
        for place, out_HND in zip(places, out_KHND.unbind(0), strict=True):
            pieces[place] = out_HND
    # One concatenation: writing slices in place would copy the whole gradient once per document.
    return _lay_out(pieces, documents, query, value.shape[-1]), None


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


def _gather(x_BHTD: torch.Tensor, places: list[tuple[int, int]], length: int) -> torch.Tensor:
    """[K, H, N, D] of the documents at `places`; a view where one slice covers them."""
    starts = {start for _, start in places}
    rows = [row for row, _ in places]
    if len(starts) == 1 and rows == list(range(rows[0], rows[0] + len(rows))):
        start = starts.pop()
        return x_BHTD[rows[0] : rows[0] + len(rows), :, start : start + length]
    return torch.stack([x_BHTD[row, :, start : start + length] for row, start in places])


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


def _lay_out(
    pieces: dict[tuple[int, int], torch.Tensor], documents: Documents, query: torch.Tensor, width: int
) -> torch.Tensor:
    """[B, T, H, D] from one [H, N, D] per document."""
    rows = []
    for row, lengths in enumerate(documents.lengths):
        parts, start = [], 0
        for length in lengths:
            parts.append(pieces[row, start])
            start += length
        padding = query.shape[2] - start
        if padding:
            dtype = parts[0].dtype if parts else query.dtype
            parts.append(torch.zeros(query.shape[1], padding, width, dtype=dtype, device=query.device))
        rows.append(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
    return torch.stack(rows).transpose(1, 2).contiguous()


# No mask function goes with it: transformers then builds none, and the attention gets mask None.
AttentionInterface.register(ATTENTION_NAME, document_attention)
