"""What the text tasks share: month names, random words and numbers, and the form of a row."""

from __future__ import annotations

import json
from random import Random

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
CONSONANTS = "bcdfghjklmnpqrstvwxyz"
VOWELS = "aeiou"


def random_word(random: Random, shortest: int = 2, longest: int = 7) -> str:
    """A pronounceable lower-case word that means nothing."""
    length = random.randint(shortest, longest)
    start = random.randint(0, 1)
    return "".join(random.choice(VOWELS if (i + start) % 2 else CONSONANTS) for i in range(length))


def random_number(random: Random, digits: int = 4) -> str:
    """A number of one to `digits` digits without leading zeros; each length is equally likely."""
    length = random.randint(1, digits)
    return str(random.randint(10 ** (length - 1), 10**length - 1))


def random_item(random: Random) -> str:
    """A word or a number."""
    return random_number(random) if random.random() < 0.5 else random_word(random)


def with_suffix(number: int) -> str:
    """1 → 1st, 12 → 12th."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def message_line(prompt: str, answer: str) -> str:
    """One line of a JSONL file of messages."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"
