"""A packed micro-batch as rows of one document each, in groups of nearly the same length."""

# K documents of a group, N tokens of a padded document, L labels

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.engines.batches import document_places
from tunewright.types import Batch

# Rows come in few widths and labels in few counts: MLX keeps a compiled step for each shape it meets.
WIDTH_STEP = 32
LABEL_STEP = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """Documents of one group. tokens_KN: int32, padded at the end. places_L: flat index into K·N of each
    position whose next token is a label; labels_L: that token; weights_L: its loss weight. Labels are padded
    by ones of weight 0."""

    tokens_KN: NDArray[np.int32]
    places_L: NDArray[np.int32]
    labels_L: NDArray[np.int32]
    weights_L: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Document:
    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def needed(self) -> int:
        """Tokens up to the one that predicts the last label; nothing later moves the loss."""
        return int(np.flatnonzero(self.weights[1:] > 0)[-1]) + 1


def split_rows(batch: Batch) -> list[Rows]:
    """The documents of a batch that have a label, shortest groups first."""
    documents = [one for one in _documents(batch) if (one.weights[1:] > 0).any()]
    groups: dict[int, list[_Document]] = {}
    for document in documents:
        width = -(-document.needed // WIDTH_STEP) * WIDTH_STEP
        groups.setdefault(width, []).append(document)
    return [_build_rows(members, width) for width, members in sorted(groups.items())]


def _documents(batch: Batch) -> list[_Document]:
    return [_Document(batch.tokens_BT[place], batch.weights_BT[place]) for place in document_places(batch)]


def _build_rows(documents: list[_Document], width: int) -> Rows:
    tokens_KN = np.zeros((len(documents), width), np.int32)
    places: list[NDArray[np.intp]] = []
    for k, document in enumerate(documents):
        tokens_KN[k, : document.needed] = document.tokens[: document.needed]
        places.append(np.flatnonzero(document.weights[1:] > 0))
    # A document's first weight counts for nothing: no token predicts it.
    labels = [d.tokens[at + 1] for d, at in zip(documents, places, strict=True)]
    weights = [d.weights[at + 1] for d, at in zip(documents, places, strict=True)]
    flat = np.concatenate([k * width + at for k, at in enumerate(places)])
    extra = (0, -len(flat) % LABEL_STEP)
    return Rows(
        tokens_KN,
        np.pad(flat.astype(np.int32), extra),
        np.pad(np.concatenate(labels).astype(np.int32), extra),
        np.pad(np.concatenate(weights).astype(np.float32), extra),
    )
