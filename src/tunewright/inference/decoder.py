"""What answering needs of an engine: one batch of sequences, token by token, with its key-value cache.

torch_decoder.py and mlx_decoder.py implement it. Tokens and numbers are NumPy. B rows, K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Logits(Protocol):
    """Logits of the last position of each row, left on the device."""

    def likeliest(self) -> NDArray[np.int64]:
        """The token with the largest logit, [B]."""
        ...

    def top(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `count` largest logits (all of them when 0) in falling order, and their tokens, both [B, K]."""
        ...


class Decoder(Protocol):
    """Feeds prompts, then one token a row. Raises EngineOutOfMemory when the device has no memory left."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Feed the prompts (none empty), whatever was fed before; returns the logits after each."""
        ...

    def next(self, tokens_B: NDArray[np.int64]) -> Logits:
        """Feed one token a row."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only, given by their places in the batch, in rising order."""
        ...
