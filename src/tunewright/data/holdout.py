"""Which training rows are held out for evaluation.

The choice is a hash of (seed, row), so it is the same on every machine and for every resume. Where all rows
are known (choose_held_out), those with equal tokens go the same way: a duplicate of a held-out row never
trains. Where only their number is known (pick_held_out), duplicates are not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from tunewright.data.shard import hash64, permute
from tunewright.types import Example

# Array letters: H rows held out of a source.

MOST_PICKED = 2000
"""Rows held out at most where rows are read when their turn comes: the held-out rows stay in memory."""
_STREAM = 3  # keeps this hash apart from the two that order rows
_PICK = 4
PreparedRow = tuple[Example, ...]


def choose_held_out(sources: Sequence[Sequence[bytes]], *, share: float, seed: int) -> list[list[bool]]:
    """For each row of each source, by its fingerprint, whether it is held out.

    Takes at least round(share · rows) rows, and one when any share is asked for; never the last distinct
    row of a source.
    """
    places: dict[bytes, list[tuple[int, int]]] = {}
    for source, prints in enumerate(sources):
        for row, print_ in enumerate(prints):
            places.setdefault(print_, []).append((source, row))
    groups = list(places.values())
    chosen = [[False] * len(prints) for prints in sources]
    if share == 0 or not groups:
        return chosen
    wanted = max(1, round(share * sum(len(prints) for prints in sources)))
    left = [len(prints) for prints in sources]
    taken = 0
    for group in np.argsort(hash64(np.arange(len(groups), dtype=np.uint64), seed, _STREAM), kind="stable"):
        if taken >= wanted:
            break
        members = groups[int(group)]
        loss = [sum(source == s for s, _ in members) for source in range(len(sources))]
        if any(loss[source] and loss[source] >= left[source] for source in range(len(sources))):
            continue
        for source, row in members:
            chosen[source][row] = True
            left[source] -= 1
        taken += len(members)
    return chosen


def pick_held_out(counts: Sequence[int], *, share: float, seed: int) -> list[NDArray[np.int64]]:
    """The numbers of the rows held out of each source, ascending, for sources of `counts` rows.

    Takes round(share · rows), one at least and MOST_PICKED at most, from each source by its size; never the
    last row of a source.
    """
    wanted = min(MOST_PICKED, max(1, round(share * sum(counts)))) if share else 0
    quotas = spread_evenly(wanted, counts)
    picked: list[NDArray[np.int64]] = []
    for source, (rows, quota) in enumerate(zip(counts, quotas, strict=True)):
        index_H = np.arange(min(quota, rows - 1))
        picked.append(np.sort(permute(index_H, rows, seed, _PICK, source)))
    return picked


def spread_evenly(wanted: int, counts: Sequence[int]) -> list[int]:
    """`wanted` divided among sources by their size, the sum exact; never more than a source has."""
    total = max(sum(counts), 1)
    ends = [round(min(wanted, total) * end / total) for end in accumulate(counts, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def fingerprint(row: PreparedRow) -> bytes:
    """Equal for rows with equal tokens and weights."""
    digest = blake2b(digest_size=16)
    for example in row:
        digest.update(len(example).to_bytes(8, "little"))
        digest.update(example.tokens_T.tobytes())
        digest.update(example.weights_T.tobytes())
    return digest.digest()
