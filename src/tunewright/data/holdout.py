"""Which training rows are held out for evaluation.

The choice is a hash of (seed, row), so it is the same on every machine and for every resume. Rows with
equal tokens go the same way: a duplicate of a held-out row never trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from tunewright.data.shard import hash64
from tunewright.types import Example

_STREAM = 3  # keeps this hash apart from the two that order rows
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


def fingerprint(row: PreparedRow) -> bytes:
    """Equal for rows with equal tokens and weights."""
    digest = blake2b(digest_size=16)
    for example in row:
        digest.update(len(example).to_bytes(8, "little"))
        digest.update(example.tokens_T.tobytes())
        digest.update(example.weights_T.tobytes())
    return digest.digest()
