"""Laying the examples of one optimizer step end to end.

Packing never crosses a step, so it changes neither what a step learns from nor the data position.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.errors import DataError


def pack_lengths(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity` tokens, longest first; within a bin in the order
    given. Never splits an example. Source: first-fit decreasing (Johnson, 1973)."""
    bins: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise DataError(
                f"an example of {length} tokens does not fit",
                expected=f"at most {capacity}",
                code="data.overlong",
            )
        place = next((b for b, left in enumerate(free) if left >= length), len(bins))
        if place == len(bins):
            bins.append([])
            free.append(capacity)
        bins[place].append(index)
        free[place] -= length
    return [sorted(members) for members in bins]


def pad_groups(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices of `lengths` in groups of at most `rows`, alike in length so that padding is small."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + rows] for start in range(0, len(order), rows)]
