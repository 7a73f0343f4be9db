"""A packed micro-batch as rows of one document each, in groups of nearly the same length."""

# K documents of a group, N tokens of a padded document, L labels

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.engines.batches import document_places
from tunewright.types import Batch

# Labels come in few counts: MLX keeps a compiled pass for each shape it meets.
LABEL_STEP = 64


@dataclass(frozen=True, slots=True)
class Grouping:
    """How documents are grouped. width_step: widths are multiples of it. pass_cost: what one more pass costs,
    in tokens. few_shapes: pad the number of rows and labels too, so that compiled passes serve again."""

    width_step: int
    pass_cost: int
    few_shapes: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """Documents of one group. tokens_KN: int32, padded at the end. places_L: flat index into K·N of each
    position whose next token is a label; labels_L: that token; weights_L: its loss weight. Labels are padded
    by ones of weight 0."""

    tokens_KN: NDArray[np.int32]
    places_L: NDArray[np.int32]
    labels_L: NDArray[np.int32]
    weights_L: NDArray[np.float32]

    def first(self, count: int) -> Rows:
        """The first so many documents."""
        tokens_KN = self.tokens_KN[:count]
        kept_L = self.places_L < tokens_KN.size
        return Rows(tokens_KN, self.places_L[kept_L], self.labels_L[kept_L], self.weights_L[kept_L])


@dataclass(frozen=True, slots=True)
class _Document:
    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def needed(self) -> int:
        """Tokens up to the one that predicts the last label; nothing later moves the loss."""
        return int(np.flatnonzero(self.weights[1:] > 0)[-1]) + 1


def split_rows(batch: Batch, grouping: Grouping) -> list[Rows]:
    """The documents of a batch that have a label, shortest groups first."""
    documents = [one for one in _documents(batch) if (one.weights[1:] > 0).any()]
    by_width: dict[int, list[_Document]] = {}
    for document in documents:
        by_width.setdefault(_round_up(document.needed, grouping.width_step), []).append(document)
    counts = {width: len(members) for width, members in sorted(by_width.items())}
    return [
        _build_rows([one for width in widths for one in by_width[width]], widths[-1], grouping)
        for widths in cheapest_groups(counts, grouping)
    ]


def cheapest_groups(counts: Mapping[int, int], grouping: Grouping) -> list[list[int]]:
    """Cut widths, in rising order with the number of documents of each, into runs that share a pass.

    Padding a document to its run's largest width costs tokens, a pass of its own costs pass_cost; the cut
    with the lowest sum is found by trying for each width where its run may begin.
    """
    widths = list(counts)
    costs, starts = [0], [0]
    for end in range(1, len(widths) + 1):
        best, rows = None, 0
        for start in range(end - 1, -1, -1):
            rows += counts[widths[start]]
            padded = _ladder(rows) if grouping.few_shapes else rows
            cost = costs[start] + padded * widths[end - 1] + grouping.pass_cost
            if best is None or cost < best[0]:
                best = cost, start
        assert best is not None
        costs.append(best[0])
        starts.append(best[1])
    groups: list[list[int]] = []
    end = len(widths)
    while end:
        groups.append(widths[starts[end] : end])
        end = starts[end]
    return groups[::-1]


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _ladder(number: int) -> int:
    """The next of 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40 …: at most a quarter too many."""
    step = 1 << max(0, (number - 1).bit_length() - 3)
    return _round_up(number, step)


def _documents(batch: Batch) -> list[_Document]:
    return [_Document(batch.tokens_BT[place], batch.weights_BT[place]) for place in document_places(batch)]


def _build_rows(documents: list[_Document], width: int, grouping: Grouping) -> Rows:
    count = _ladder(len(documents)) if grouping.few_shapes else len(documents)
    tokens_KN = np.zeros((count, width), np.int32)
    flat: list[NDArray[np.intp]] = []
    labels: list[NDArray[np.int32]] = []
    weights: list[NDArray[np.float32]] = []
    for k, document in enumerate(documents):
        tokens_KN[k, : document.needed] = document.tokens[: document.needed]
        # A document's first weight counts for nothing: no token predicts it.
        places = np.flatnonzero(document.weights[1:] > 0)
        flat.append(k * width + places)
        labels.append(document.tokens[places + 1])
        weights.append(document.weights[places + 1])
    found = sum(len(one) for one in flat)
    steps = -(-found // LABEL_STEP)
    extra = (0, (_ladder(steps) if grouping.few_shapes else steps) * LABEL_STEP - found)
    return Rows(
        tokens_KN,
        np.pad(np.concatenate(flat).astype(np.int32), extra),
        np.pad(np.concatenate(labels).astype(np.int32), extra),
        np.pad(np.concatenate(weights).astype(np.float32), extra),
    )
