"""Rows that are read, rendered and tokenised when their turn comes: memory does not grow with the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.config.schema import DataConfig
from tunewright.data.example_rows import Digest
from tunewright.data.indexed_source import IndexedSource
from tunewright.data.seen_rows import SeenRows
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Example

# Array letters: H rows held out of a source.

_HINT = "`tunewright data check FILE` finds every bad row of a file"


@dataclass(frozen=True, slots=True)
class IndexedRows:
    """Implements ExampleRows: the rows of a source without those held out.

    held_out_H: their numbers, ascending. seen: counts each row when it is first read.
    """

    source: IndexedSource
    tokenizer: ChatTokenizer
    data: DataConfig
    held_out_H: NDArray[np.int64]
    seen: SeenRows

    def __len__(self) -> int:
        return len(self.source) - len(self.held_out_H)

    def row(self, number: int) -> Sequence[Example]:
        place = self.place(number)
        try:
            return self.seen.take(place, lambda: self.source.read(place))
        except DataError as error:
            if _HINT not in (error.hint or ""):
                error.hint = f"{error.hint}; {_HINT}" if error.hint else _HINT
            raise

    def place(self, number: int) -> int:
        """The number in the source of a row that trains: held-out rows are stepped over."""
        # Held-out row h has held_out_H[h] - h training rows before it.
        before_H = self.held_out_H - np.arange(len(self.held_out_H))
        return number + int(np.searchsorted(before_H, number, side="right"))

    def lengths(self) -> None:
        return None

    def update_digest(self, digest: Digest, weight: float) -> None:
        """The content of the files and every setting that decides about tokens and weights."""
        told = {
            "files": [file.index.sha256 for file in self.source.files],
            "format": self.source.format,
            "columns": self.source.config.columns,
            "tokenizer": self.tokenizer.digest(),
            "weight": weight,
            "held_out": self.held_out_H.tolist(),
            **self.data.model_dump(mode="json", include={"seq_len", "overlong", "train_on", "thinking"}),
        }
        digest.update(json.dumps(told, sort_keys=True).encode())
