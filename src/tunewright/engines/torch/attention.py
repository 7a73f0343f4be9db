"""Attention over documents laid end to end, without a dense mask of the row.

Each document attends inside its own slice, so cost and memory follow the documents and not the row. The
function is registered with transformers under ATTENTION_NAME; the layout reaches it as the model's keyword
argument `documents`. What it cannot do attention_call.py refuses, and attention_choice.py then falls back
to the model's own eager attention.
"""

# B rows, T tokens of a row, S = B·T, N tokens of a document, K documents of a group, H heads, D head width

from __future__ import annotations

import torch
from torch.nn import functional as F

from tunewright.engines.torch.attention_call import Rule, register_attention
from tunewright.engines.torch.documents import Documents

ATTENTION_NAME = "tunewright_documents"


def document_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, rule: Rule
) -> torch.Tensor:
    """Causal attention inside each document; padding gets zeros.

    query [B, H, T, D], key and value [B, H or fewer, T, D] → [B, T, H, D].
    """
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
    return torch.cat(outputs)[index.places_BT].view(rows, length, heads, -1)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule) -> torch.Tensor:
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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule, mask: torch.Tensor | None
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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule, mask: torch.Tensor
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


register_attention(ATTENTION_NAME, document_attention)
