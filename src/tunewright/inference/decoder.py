"""What answering needs of an engine: one batch of sequences, token by token, with its key-value cache.

torch_decoder.py and mlx_decoder.py implement it. Tokens and numbers are NumPy. B rows, K tokens, N changes to
logits, R rows of a grammar, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

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

    def masses(self, temperatures_B: NDArray[np.float32]) -> NDArray[np.float32]:
        """log Σ exp(logit / temperature) over the vocabulary, [B]."""
        ...

    def of(self, tokens_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """The logit of one token a row, [B]."""
        ...

    def rows(self, places: Sequence[int]) -> Logits:
        """Those of some rows, given by their places; one may be named more than once."""
        ...

    def changed(
        self, rows_N: NDArray[np.int64], tokens_N: NDArray[np.int64], amounts_N: NDArray[np.float32]
    ) -> Logits:
        """These logits with amounts added to some of them; a row and token may come more than once."""
        ...

    def masked(self, rows_R: NDArray[np.int64], allowed_RV: NDArray[np.bool_]) -> Logits:
        """These logits with minus infinity for the tokens of some rows that are not allowed; tokens beyond
        the width of `allowed_RV` are not."""
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
        """Go on with some of the rows only, given by their places in the batch, in rising order. A row that
        is named more than once goes on as so many rows."""
        ...

    def can_join(self) -> bool:
        """Whether `join` knows the cache that this model keeps."""
        ...

    def join(self, other: Self) -> None:
        """Put the rows of another decoder of the same model after these; that one is of no use any more."""
        ...

    def score(self, prompt: Sequence[int], count: int) -> PromptScores:
        """How likely each token of a prompt is after those before it, with the `count` likeliest instead."""
        ...


PromptScores = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""Of the tokens of a prompt but the first: log-probabilities [T-1], the K largest [T-1, K], their tokens."""

Decoders = Callable[[], Decoder]
"""Makes a decoder for a new batch of one loaded model."""


class Base(Protocol):
    """A loaded base model, whose weights any number of adapters share."""

    bytes: int

    def decoders(self) -> Decoders:
        """Decoders of the base itself."""
        ...

    def adapted(self, adapter: Path) -> tuple[Decoders, int]:
        """Decoders of the base with the PEFT adapter of a folder, and the bytes that it takes besides.

        The base stays as it is. Raises ModelError for an adapter that does not fit."""
        ...
