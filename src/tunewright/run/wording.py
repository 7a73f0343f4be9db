"""Words for numbers, in what a person reads of a run."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """`1 step`, `2,000 steps`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def every(steps: int) -> str:
    """`every step`, `every 100 steps`."""
    return "every step" if steps == 1 else f"every {counted(steps, 'step')}"
