"""Attention of packed documents on a CPU as matrix products, with the probabilities kept.

In bf16 the CPU's fused kernel takes 1.6 to 2.2 times as long, forward and backward. For documents up to
models.fast_activations.LONGEST_KEPT tokens the probabilities are small enough to keep. Scores are in fp32, as
in the fused kernels: in bf16 a score of 50 would be off by 0.1.
"""

# S tokens, K documents of a group, N tokens of a document, P heads of keys and values, G queries a key head,
# C columns of heads (P·G queries, P keys, P values), W width of a head, Q rows of a block of queries

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunewright.models.fast_activations import QUERY_BLOCK


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of a packed [S, C, W]: queries first, then keys, then values."""

    keys: int
    groups: int

    @property
    def columns(self) -> int:
        return self.keys * (self.groups + 2)


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of [S·C, W] of the queries, keys and values of K documents of one padded length, in the order in
    which matrix products want them; and rows of [S·P·G, W] of the outputs. padded: which of these are slots
    behind the end of a document."""

    count: int
    length: int
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    outputs: torch.Tensor
    padded: torch.Tensor


@dataclass(frozen=True, slots=True)
class HeadIndex:
    """Built once a batch, used by every layer. places: where each row of [S·C, W] stands in the queries of
    all groups, then their keys, then their values; one past the last for padding. output_places: the same
    for [S·P·G, W] in the outputs."""

    heads: Heads
    groups: tuple[_Group, ...]
    places: torch.Tensor
    output_places: torch.Tensor


def build_head_index(groups_KN: Sequence[NDArray[np.int64]], tokens: int, heads: Heads) -> HeadIndex:
    """groups_KN: flat positions of the tokens of K documents, short ones padded with their first token."""
    queries = heads.keys * heads.groups
    head_PG1 = np.arange(queries).reshape(heads.keys, heads.groups, 1)
    head_P1 = np.arange(heads.keys)[:, None]
    found: list[_Group] = []
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    for flat_KN in groups_KN:
        at = flat_KN[:, None, :]
        rows = [
            at[:, None] * heads.columns + head_PG1,
            at * heads.columns + queries + head_P1,
            at * heads.columns + queries + heads.keys + head_P1,
        ]
        flat = [row.reshape(-1) for row in rows]
        for part, row in zip(parts, flat, strict=True):
            part.append(row)
        outputs = (at[:, None] * queries + head_PG1).reshape(-1)
        again_KN = (flat_KN == flat_KN[:, :1]) & (np.arange(flat_KN.shape[1]) > 0)
        again = np.broadcast_to(
            again_KN[:, None, None], (len(flat_KN), heads.keys, heads.groups, again_KN.shape[1])
        )
        index = (*flat, outputs, np.flatnonzero(again))
        found.append(_Group(*flat_KN.shape, *(torch.from_numpy(row) for row in index)))
    every = np.concatenate([row for part in parts for row in part])
    outputs = np.concatenate([group.outputs.numpy() for group in found])
    return HeadIndex(
        heads,
        tuple(found),
        torch.from_numpy(_invert(every, tokens * heads.columns)),
        torch.from_numpy(_invert(outputs, tokens * queries)),
    )


def _invert(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where each of `count` rows first stands in `rows`; one past the end where it does not."""
    places = np.full(count, len(rows), dtype=np.int64)
    # Backwards, so that the first of equal ones, the real token and not a padded slot, is written last.
    places[rows[::-1]] = np.arange(len(rows))[::-1]
    return places


def attend_heads(qkv_SCW: torch.Tensor, index: HeadIndex, scale: float) -> torch.Tensor:
    """Causal attention inside each document: [S, C, W] → [S, P·G·W]; padding gets zeros."""
    result: Any = _Attend.apply(qkv_SCW, index, scale)
    return result


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        qkv_SCW, index, scale = args
        rows_W = qkv_SCW.reshape(-1, qkv_SCW.shape[-1])
        outputs: list[torch.Tensor] = []
        kept: list[torch.Tensor] = []
        for group in index.groups:
            parts = _gather(rows_W, group, index.heads)
            out, probabilities = _attend_group(*parts, scale)
            outputs.append(out.reshape(-1, out.shape[-1]))
            kept += [*parts, *probabilities]
        ctx.index, ctx.scale = index, scale
        ctx.save_for_backward(*kept)
        return _scatter(outputs, index.output_places).view(len(qkv_SCW), -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        index: HeadIndex = ctx.index
        # Recomputed activations can be asked for once.
        saved = ctx.saved_tensors
        kept = iter(saved)
        gradients: list[list[torch.Tensor]] = [[], [], []]
        rows_W = grad_outputs[0].reshape(-1, saved[0].shape[-1])
        for group in index.groups:
            parts = (next(kept), next(kept), next(kept))
            probabilities = [next(kept) for _ in _blocks(group.length)]
            # A padded slot shows the first token's output; what comes back for it came for that one already.
            dout = rows_W.index_select(0, group.outputs).index_fill_(0, group.padded, 0).view(parts[0].shape)
            for one, gradient in zip(
                gradients, _attend_group_backward(dout, *parts, probabilities, ctx.scale), strict=True
            ):
                one.append(gradient.reshape(-1, gradient.shape[-1]))
        every = [gradient for part in gradients for gradient in part]
        d_SCW = _scatter(every, index.places).view(-1, index.heads.columns, every[0].shape[-1])
        return d_SCW, None, None


def _gather(
    rows_W: torch.Tensor, group: _Group, heads: Heads
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [K·P, G, N, W], keys and values [K·P, N, W]."""
    width, batch = rows_W.shape[-1], group.count * heads.keys
    q = rows_W.index_select(0, group.queries).view(batch, heads.groups, group.length, width)
    k = rows_W.index_select(0, group.keys).view(batch, group.length, width)
    v = rows_W.index_select(0, group.values).view(batch, group.length, width)
    return q, k, v


def _scatter(parts: list[torch.Tensor], places: torch.Tensor) -> torch.Tensor:
    # The last row is the zeros that padding points to.
    return torch.cat([*parts, parts[0].new_zeros(1, parts[0].shape[-1])]).index_select(0, places)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]


def _attend_group(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(outputs like q, probabilities [K·P, G·Q, keys] of each block of queries)."""
    _, groups, length, width = q.shape
    keys_T = k.float().transpose(1, 2)
    out, kept = torch.empty_like(q), []
    for start, stop in _blocks(length):
        queries = q[:, :, start:stop].reshape(len(q), -1, width)
        mask = _mask(start, stop, groups, k.device)
        scores = torch.baddbmm(mask, queries.float(), keys_T[:, :, :stop], alpha=scale)
        shares = scores.softmax(-1).to(q.dtype)
        out[:, :, start:stop] = torch.bmm(shares, v[:, :stop]).view(len(q), groups, -1, width)
        kept.append(shares)
    return out, kept


def _attend_group_backward(
    dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    probabilities: list[torch.Tensor], scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    _, groups, length, width = q.shape
    single = length <= QUERY_BLOCK
    dq = torch.empty_like(q)
    # Several blocks add to the same keys; fp32 keeps what each adds.
    dk, dv = (torch.zeros_like(x, dtype=x.dtype if single else torch.float32) for x in (k, v))
    for (start, stop), shares in zip(_blocks(length), probabilities, strict=True):
        queries = q[:, :, start:stop].reshape(len(q), -1, width)
        doutputs = dout[:, :, start:stop].reshape(len(q), -1, width)
        dshares = torch.bmm(doutputs, v[:, :stop].transpose(1, 2))
        dscores = torch.ops.aten._softmax_backward_data(dshares, shares, -1, shares.dtype)
        dq[:, :, start:stop] = torch.bmm(dscores, k[:, :stop]).view(len(q), groups, -1, width) * scale
        dv[:, :stop] += torch.bmm(shares.transpose(1, 2), doutputs)
        dk[:, :stop] += torch.bmm(dscores.transpose(1, 2), queries) * scale
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _mask(start: int, stop: int, groups: int, device: torch.device) -> torch.Tensor:
    """0 where query i of a block sees key j, else -inf: [G·Q, keys]."""
    hidden = torch.full((stop - start, stop), float("-inf"), device=device).triu_(start + 1)
    return hidden.repeat(groups, 1)
