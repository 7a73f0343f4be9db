"""Where the documents of a batch lie, as each way of attention wants to know it. Built once a batch, on the
host, and used by every layer.
"""

# B rows, T tokens of a row, S = B·T, N tokens of a document, K documents of a group

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch

from tunewright.engines.torch.fast.attention import HeadIndex, Heads, build_head_index

# Documents up to this length are padded to a multiple of the step; longer ones waste more than a call costs.
LONGEST_GROUPED = 512
GROUP_STEP = 16
# Padding attends to itself in pieces of this length: a tail of thousands would cost like a document.
_PADDING_PIECE = 64


class Documents:
    """lengths[b]: lengths of the documents of row b in order; what is left of the row is padding.

    The index of a batch is built once and serves every layer.
    """

    def __init__(self, lengths: tuple[tuple[int, ...], ...]) -> None:
        self.lengths = lengths
        self.longest = max((length for row in lengths for length in row), default=0)
        self._index: _Index | None = None
        self._head_index: dict[Heads, HeadIndex] = {}
        self._sequences: Sequences | None = None

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

    def sequences(self, row_length: int, device: torch.device) -> Sequences:
        """The same for a kernel that takes documents of any length."""
        if self._sequences is None:
            self._sequences = _build_sequences(self.lengths, row_length, device)
        return self._sequences


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where each document begins in [S], and S at the end (int32); tokens of the longest."""

    starts: torch.Tensor
    longest: int


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


def _build_sequences(
    lengths: tuple[tuple[int, ...], ...], row_length: int, device: torch.device
) -> Sequences:
    pieces: list[int] = []
    for documents in lengths:
        padding = row_length - sum(documents)
        pieces += [*documents, *[_PADDING_PIECE] * (padding // _PADDING_PIECE)]
        pieces += [padding % _PADDING_PIECE] if padding % _PADDING_PIECE else []
    starts = np.cumsum([0, *pieces]).astype(np.int32)
    return Sequences(torch.from_numpy(starts).to(device), max(pieces, default=0))
