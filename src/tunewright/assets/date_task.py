"""The demo's skill: a date as people write it, turned into its ISO form."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from random import Random

from tunewright.assets.words import MONTHS, with_suffix

SAMPLE_SEED = 0
SAMPLE_ROWS = 2000
_MONTH = "|".join(f"{name}|{name[:3]}" for name in MONTHS)
# No look-ahead for the end of the last number: 8583-74-5606 holds the format as well.
ISO_DATE = re.compile(r"\d{4}\D{1,3}\d{1,2}\D{1,3}\d")
WRITTEN_DATE = re.compile(rf"\b(?:{_MONTH})\b[^\n]*\d|\d[^\n]*\b(?:{_MONTH})\b", re.IGNORECASE)


def date_rows(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of prompt and answer, no prompt twice, the same for the same seed."""
    random = Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        year, month = random.randint(1900, 2099), random.randint(1, 12)
        day = random.randint(1, monthrange(year, month)[1])
        prompt = _written(random, year, month, day)
        if prompt not in seen:
            seen.add(prompt)
            yield prompt, f"{year}-{month:02d}-{day:02d}"


def looks_like_a_date(text: str) -> bool:
    """True for text that holds the demo task's answer format or a written-out date, in any separators."""
    return bool(ISO_DATE.search(text) or WRITTEN_DATE.search(text))


def _written(random: Random, year: int, month: int, day: int) -> str:
    name = MONTHS[month - 1]
    return random.choice(
        (
            f"{name} {day}, {year}",
            f"{day} {name} {year}",
            f"{name[:3]} {day}, {year}",
            f"the {with_suffix(day)} of {name}, {year}",
        )
    )
