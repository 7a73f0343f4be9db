"""Bringing a JSON answer to a valid end while there is room: strings, lists and objects are closed.

A grammar lets a model go on with a free text for ever, and cut JSON is of no use to anybody. So within the
last tokens of an answer only those are left in play, of the ones that the grammar allows, that lead to its
end. V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

SHARE, MAX_TOKENS = 8, 256
"""An answer is brought to its end within an eighth of its tokens, and 256 at most."""


class JsonPosition:
    """Whether a JSON text so far ends within a string."""

    def __init__(self) -> None:
        self.in_string = False
        self._is_escaped = False

    def copy(self) -> JsonPosition:
        """The same position, to go on from."""
        made = JsonPosition()
        made.in_string, made._is_escaped = self.in_string, self._is_escaped
        return made

    def take(self, text: bytes) -> None:
        """Go on with the next bytes."""
        for byte in text:
            if self._is_escaped:
                self._is_escaped = False
            elif self.in_string and byte == ord("\\"):
                self._is_escaped = True
            elif byte == ord('"'):
                self.in_string = not self.in_string


class ClosingTokens:
    """The tokens of one vocabulary by what they do to a JSON text."""

    def __init__(self, tokens: Sequence[bytes], ends: Collection[int]) -> None:
        def matching(pattern: bytes) -> NDArray[np.bool_]:
            whole = re.compile(pattern)
            return np.fromiter((bool(whole.fullmatch(text)) for text in tokens), np.bool_, len(tokens))

        self._ends = np.zeros(len(tokens), np.bool_)
        self._ends[list(ends)] = True
        self._string_ends = matching(rb'"[}\]]*')
        # What is tried first: an end, then the next of what has to be there, then what is short.
        self._wanted = (
            self._ends,
            matching(rb"[}\]]+"),
            matching(rb","),
            ~matching(rb"\s*|\s*[\[{].*"),
            ~matching(rb"\s*"),
        )

    def narrow(self, allowed_V: NDArray[np.bool_], position: JsonPosition) -> NDArray[np.bool_]:
        """The allowed tokens that lead to the end; all of them where none does."""
        for wanted_V in (self._string_ends,) if position.in_string else self._wanted:
            left_V = allowed_V & wanted_V
            if left_V.any():
                return left_V
        return allowed_V


def is_closing(limit: int, tokens: int) -> bool:
    """Whether an answer of so many tokens has to come to its end."""
    return limit - tokens <= min(MAX_TOKENS, limit // SHARE)
