"""The order of rows as a pure function of (seed, epoch, index), in constant memory.

A permutation of any length comes from a Feistel network on the next power of four, walking cycles until
the value falls inside. There is no state: every rank, engine and resumed run computes the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Array letters: N indices asked for.

_ROUNDS = 8
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # SplitMix64 finaliser (Steele et al., 2014)
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF
_U64 = np.uint64


@dataclass(frozen=True, slots=True)
class Slots:
    """Rows by number: `source_N` says which source, `row_N` which of its rows."""

    source_N: NDArray[np.int64]
    row_N: NDArray[np.int64]


def rank_rows(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Indices of the rows of one step for each rank, in the order given. Numbers of rows differ by one at
    most; in each round every rank gets one of the longest rows left, the rank with the fewest tokens the
    longest of them."""
    shares: list[list[int]] = [[] for _ in range(world_size)]
    tokens = [0] * world_size
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(lengths), world_size):
        ranks = sorted(range(world_size), key=lambda rank: (tokens[rank], rank))
        for index, rank in zip(longest_first[start : start + world_size], ranks, strict=False):
            shares[rank].append(index)
            tokens[rank] += lengths[index]
    return [sorted(share) for share in shares]


def hash64(values_N: NDArray[np.uint64], *keys: int) -> NDArray[np.uint64]:
    """Well-mixed 64-bit hash of each value under a sequence of integer keys."""
    return _mix(values_N.astype(_U64) + _U64(_fold(keys)))


def permute(index_N: NDArray[np.int64], length: int, *keys: int) -> NDArray[np.int64]:
    """Where the permutation of range(length) named by `keys` sends each index. Source: cycle walking
    (Black and Rogaway, 2002)."""
    if length <= 1:
        return np.zeros_like(index_N, dtype=np.int64)
    half = _U64(max(2, ((length - 1).bit_length() + 1) // 2))
    values_N = _feistel(index_N.astype(_U64), half, keys)
    outside_N = values_N >= length
    while outside_N.any():
        values_N[outside_N] = _feistel(values_N[outside_N], half, keys)
        outside_N = values_N >= length
    return values_N.astype(np.int64)


class EpochOrder:
    """Which row each slot of an endless stream holds, for sources with weights.

    A source of n rows and weight w takes round(w·n) slots of every epoch; over the epochs its slots run
    through permutations of its rows, one after the other. One permutation of the epoch's slots mixes the
    sources. Slot numbers count over all epochs.
    """

    def __init__(self, sources: Sequence[tuple[int, float]], seed: int) -> None:
        self._rows = tuple(rows for rows, _ in sources)
        self._slots = tuple(round(weight * rows) for rows, weight in sources)
        self._ends = np.cumsum(self._slots)
        self._seed = seed

    @property
    def slots_of_source(self) -> tuple[int, ...]:
        """Slots that each source takes in one epoch."""
        return self._slots

    @property
    def slots_per_epoch(self) -> int:
        """Slots of one epoch over all sources."""
        return sum(self._slots)

    def rows(self, start: int, stop: int) -> Slots:
        """The rows at slots start to stop, which must lie in one epoch."""
        epoch, offset = divmod(start, self.slots_per_epoch)
        assert start < stop <= (epoch + 1) * self.slots_per_epoch, "slots of one epoch only"
        slot_N = permute(np.arange(offset, offset + stop - start), self.slots_per_epoch, self._seed, epoch, 1)
        source_N = np.searchsorted(self._ends, slot_N, side="right")
        row_N = np.empty_like(slot_N)
        for source, (rows, count) in enumerate(zip(self._rows, self._slots, strict=True)):
            mine_N = source_N == source
            if not mine_N.any():
                continue
            nth_N = epoch * count + slot_N[mine_N] - (self._ends[source] - count)
            row_N[mine_N] = self._pass_rows(nth_N, rows, source)
        return Slots(source_N.astype(np.int64), row_N)

    def _pass_rows(self, nth_N: NDArray[np.int64], rows: int, source: int) -> NDArray[np.int64]:
        """Row of the n-th slot that a source ever fills: pass n // rows, permuted within the pass."""
        pass_N, index_N = nth_N // rows, nth_N % rows
        row_N = np.empty_like(nth_N)
        for which in np.unique(pass_N):
            chosen_N = pass_N == which
            row_N[chosen_N] = permute(index_N[chosen_N], rows, self._seed, int(which), 2, source)
        return row_N


def _feistel(values_N: NDArray[np.uint64], half: np.uint64, keys: Sequence[int]) -> NDArray[np.uint64]:
    mask = (_U64(1) << half) - _U64(1)
    left_N, right_N = values_N >> half, values_N & mask
    for number in range(_ROUNDS):
        left_N, right_N = right_N, left_N ^ (hash64(right_N, *keys, number) & mask)
    return (left_N << half) | right_N


def _fold(keys: Sequence[int]) -> int:
    """One 64-bit number from a sequence of keys, so that arrays are mixed once and not per key."""
    folded = len(keys)
    for key in keys:
        folded = (folded ^ key) * _GOLDEN + _GOLDEN & _WORD
        for shift, factor in _MIX:
            folded = (folded ^ folded >> shift) * factor & _WORD
        folded ^= folded >> 31
    return folded


def _mix(values_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in _MIX:
        values_N = (values_N ^ (values_N >> _U64(shift))) * _U64(factor)
    return values_N ^ (values_N >> _U64(31))
