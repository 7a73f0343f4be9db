"""Special tokens of a tokenizer, and the one that closes a turn in a rendered text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def special_tokens(hugging: Any) -> dict[str, int]:
    """Id of each added token that counts as special, and of the eos token."""
    added = {token.content: int(i) for i, token in hugging.added_tokens_decoder.items() if token.special}
    if hugging.eos_token is not None:
        added[hugging.eos_token] = int(hugging.eos_token_id)
    return added


def match_any(names: Iterable[str]) -> re.Pattern[str]:
    """Matches each of the names, the longest first; nothing where there are none."""
    ordered = sorted(names, key=len, reverse=True)
    return re.compile("|".join(re.escape(name) for name in ordered) or r"(?!)")


def find_turn_end(text: str, start: int, special: re.Pattern[str]) -> tuple[int, int] | None:
    """Place of the token that closes the turn which ends `text`: the first of the special tokens that
    follow its content. None when no special token stands after the content."""
    end: tuple[int, int] | None = None
    at = len(text)
    for match in reversed(list(special.finditer(text, start))):
        if text[match.end() : at].strip():
            break
        end, at = match.span(), match.start()
    return end


def shared_length(a: str, b: str) -> int:
    """Characters at the start that both texts have."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
