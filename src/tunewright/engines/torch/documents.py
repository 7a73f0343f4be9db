"""Where the documents of a batch lie, as each way of attention wants to know it. Built once a batch, on the
host, and used by every layer.
"""

# B rows, T tokens of a row, S = B·T, N tokens of a document, K documents of a group

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tunewright.engines.torch.device import send
from tunewright.engines.torch.fast.attention import HeadIndex, Heads, build_head_index

# Documents up to this length are padded to a multiple of the step; longer ones waste more than a call costs.
LONGEST_GROUPED = 512
GROUP_STEP = 16
# (longest, multiple) for matrix products: at most an eighth more, and few shapes.
_COARSE_STEPS = ((256, 16), (512, 32), (1024, 64))
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
            groups = _flat_groups(self.lengths, row_length, _padded_coarsely)
            groups_KN = [part_KN for flat_KN, _ in groups for part_KN in _halve(flat_KN)]
            self._head_index[heads] = build_head_index(groups_KN, len(self.lengths) * row_length, heads)
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
    arrays: list[torch.Tensor] = []
    places_BT = np.full(len(lengths) * row_length, -1, dtype=np.int64)
    slots = 0
    for flat_KN, real_KN in _flat_groups(lengths, row_length, _padded):
        places_BT[flat_KN[real_KN]] = slots + np.flatnonzero(real_KN)
        slots += flat_KN.size
        arrays.append(send(flat_KN, device))
    places_BT[places_BT < 0] = slots
    return _Index(tuple(arrays), send(places_BT, device))


def _flat_groups(
    lengths: tuple[tuple[int, ...], ...], row_length: int, padded_length: Callable[[int], int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """(flat position of each token of K documents, which are real) of each group, [K, N]."""
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, documents in enumerate(lengths):
        start = row * row_length
        for length in documents:
            groups[padded_length(length)].append((start, length))
            start += length
    for padded, documents in sorted(groups.items()):
        starts_K = np.array([start for start, _ in documents])
        lengths_K = np.array([length for _, length in documents])
        steps_N = np.arange(padded)
        real_KN = steps_N < lengths_K[:, None]
        # A padded slot repeats the first token: finite values that nothing real ever attends to.
        yield starts_K[:, None] + np.where(real_KN, steps_N, 0), real_KN


def _padded(length: int) -> int:
    """Short documents share a group with others of nearly their length: one call instead of many. Causal
    attention never looks at what follows, so padding at the end needs no mask."""
    return -(-length // GROUP_STEP) * GROUP_STEP if length <= LONGEST_GROUPED else length


def _padded_coarsely(length: int) -> int:
    """For matrix products, whose library builds and keeps a kernel for each shape that it meets."""
    step = next((step for most, step in _COARSE_STEPS if length <= most), _COARSE_STEPS[-1][1])
    return -(-length // step) * step


def _halve(flat_KN: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Parts of 2^n documents, for the same reason."""
    while len(flat_KN):
        size = 1 << (len(flat_KN).bit_length() - 1)
        yield flat_KN[:size]
        flat_KN = flat_KN[size:]


def _build_sequences(
    lengths: tuple[tuple[int, ...], ...], row_length: int, device: torch.device
) -> Sequences:
    pieces: list[int] = []
    for documents in lengths:
        padding = row_length - sum(documents)
        pieces += [*documents, *[_PADDING_PIECE] * (padding // _PADDING_PIECE)]
        pieces += [padding % _PADDING_PIECE] if padding % _PADDING_PIECE else []
    starts = np.cumsum([0, *pieces]).astype(np.int32)
    return Sequences(send(starts, device), max(pieces, default=0))
