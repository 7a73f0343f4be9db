"""Proof, on the real model, that an attention over rows computes what the model does for a document alone.

A wrong window or soft cap, or state that one document leaves to the next, trains without an error message,
and only the model itself knows what is right. attention_choice.py takes the first way that passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tunewright.engines.sample import take_pieces
from tunewright.engines.torch.attention_call import UnsupportedAttentionError
from tunewright.engines.torch.device import is_out_of_memory
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.load import set_attention, vocabulary_size
from tunewright.engines.torch.precision import compute_in
from tunewright.engines.torch.varlen import VARLEN_NAME, takes_documents
from tunewright.engines.torch.windows import NARROW, narrow_windows
from tunewright.errors import EngineError
from tunewright.types import RowLayout

# Two rows of documents: single tokens, equal lengths, one longer than two windows, padding at both ends.
_LENGTHS = ((5, 2 * NARROW + 9, 1), (7, 7, 12))
_PADDING = 3
# Largest difference of a document's logits, in the L2 norm. bf16 holds 8 bits and the two paths round
# elsewhere: 0.01 to 0.04 were measured on right ones of 2 to 30 layers, where a single logit was off by more.
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
# A deeper model rounds further, as its own forward shows when nothing but shapes changes: so many times that
# is allowed, and so many times the tolerance at most. On SmolLM2-135M in bf16 it is 0.03, as far as ours.
_OWN_NOISE, _MOST = 2.0, 3.0

Rows = tuple[tuple[int, ...], ...]
"""Lengths of the documents of each row."""


class AttentionCheck:
    """Compares ways of one model with its own eager forward of each document alone, which is computed once.

    sample: rows of the data that the documents are made of. Raises EngineError where the model cannot even do
    that.
    """

    def __init__(
        self, model: PreTrainedModel, precision: str, sample: Sequence[NDArray[np.int32]] = ()
    ) -> None:
        self._model, self._precision = model, precision
        pieces = take_pieces(sample, [length for row in _LENGTHS for length in row], vocabulary_size(model))
        self._documents = [torch.from_numpy(tokens_T) for tokens_T in pieces]
        self._moved = _move_some(self._documents, vocabulary_size(model))
        with self._prepared():
            set_attention(model, "eager")
            try:
                self._alone = [self._own_logits(tokens_T) for tokens_T in self._documents]
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise EngineError(
                    f"the model's own forward pass fails: {_first_line(error)}",
                    where="model.name",
                    got=type(model).__name__,
                    expected="a causal language model that takes input_ids alone",
                    hint="use another model",
                    code="engine.attention-mismatch",
                ) from error
        self._tolerance = self._allow()

    def _allow(self) -> float:
        """Largest difference in the norm: more where the model's own eager forward moves when padding follows
        each document."""
        base = _TOLERANCE[self._precision]
        with self._prepared():
            try:
                padded = self._logits(self._documents, "padded")
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                return base
        noise = max(difference(own, ours) for own, ours in zip(self._alone, padded, strict=True))
        return min(_MOST * base, max(base, _OWN_NOISE * noise)) if isfinite(noise) else base

    def fault(self, name: str, layout: RowLayout = "packed") -> str | None:
        """What is wrong with the attention `name` over rows of this layout; None when nothing is.

        Logits must equal those of each document alone, and other tokens in one document, or later ones in
        the same, must move nothing. A flash kernel must go backward too: its code for that is another, which
        would else fail in the first step. Leaves the model as it was.
        """
        with self._prepared():
            try:
                set_attention(self._model, name)
                logits = self._logits(self._documents, layout)
                moved = self._logits(self._moved, layout)
                if name == VARLEN_NAME and not self._has_gradients():
                    return "its gradients are not finite"
            except (UnsupportedAttentionError, EngineError) as error:
                return error.what if isinstance(error, EngineError) else str(error)
            except Exception as error:
                # A kernel that this GPU, driver or head width does not take, or an argument unknown to the
                # model: whatever it raises, this way is not to be taken.
                if is_out_of_memory(error):
                    raise
                return _first_line(error)
        leak = _TOLERANCE[self._precision] / 10
        return compare(self._alone, logits, moved, tolerance=self._tolerance, leak_tolerance=leak)

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        model = self._model
        before = model.config._attn_implementation or "eager"
        try:
            with torch.no_grad(), narrow_windows(model), compute_in(self._precision, model.device):
                yield
        finally:
            set_attention(model, before)

    def _own_logits(self, tokens_T: torch.Tensor) -> torch.Tensor:
        tokens_BT = tokens_T[None].to(self._model.device)
        return self._model(input_ids=tokens_BT, use_cache=False).logits[0].float()

    def _logits(self, documents: Sequence[torch.Tensor], layout: RowLayout) -> list[torch.Tensor]:
        """Logits of each document, in order."""
        left = list(documents)
        found: list[torch.Tensor] = []
        for rows in _passes(layout):
            here = [left.pop(0) for lengths in rows for _ in lengths]
            tokens_BT, named = self._lay_out(here, rows, padding=0 if layout == "single" else _PADDING)
            logits_BTV = self._model(input_ids=tokens_BT, use_cache=False, **named).logits
            found += [logits_BTV[row, start : start + length].float() for row, start, length in _places(rows)]
        return found

    def _has_gradients(self) -> bool:
        """Whether a backward pass through all layers gives numbers, at what the embedding puts in. Weights
        are frozen here, and none gets a gradient."""
        tokens_BT, named = self._lay_out(self._documents, _LENGTHS, padding=_PADDING)
        embedded_BTD = self._model.get_input_embeddings()(tokens_BT).detach()
        with torch.enable_grad():
            embedded_BTD.requires_grad_()
            logits_BTV = self._model(inputs_embeds=embedded_BTD, use_cache=False, **named).logits
            (gradient_BTD,) = torch.autograd.grad(logits_BTV.float().square().mean(), embedded_BTD)
        return bool(gradient_BTD.isfinite().all())

    def _lay_out(
        self, documents: Sequence[torch.Tensor], rows: Rows, *, padding: int
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Tokens, and the further arguments that training gives the model too."""
        shape = (len(rows), max(map(sum, rows)) + padding)
        tokens_BT, positions_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for tokens_T, (row, start, length) in zip(documents, _places(rows), strict=True):
            tokens_BT[row, start : start + length] = tokens_T
            positions_BT[row, start : start + length] = torch.arange(length)
        named: dict[str, Any] = {"position_ids": positions_BT.to(self._model.device)}
        if takes_documents(self._model):
            named["documents"] = Documents(rows)
        return tokens_BT.to(self._model.device), named


def difference(own: torch.Tensor, ours: torch.Tensor) -> float:
    """Of logits, in the L2 norm, over the norm of `own`."""
    return float((own - ours).norm() / own.norm())


def compare(
    alone: list[torch.Tensor], logits: list[torch.Tensor], moved: list[torch.Tensor], *, tolerance: float,
    leak_tolerance: float,
) -> str | None:  # fmt: skip
    """What differs, of documents in order; `moved` is after _move_some()."""
    # Not max(): it would pass over NaN.
    for own, ours in zip(alone, logits, strict=True):
        wrong = difference(own, ours)
        if not wrong <= tolerance:
            return f"logits differ by {wrong:.1e} of their norm from those of single documents"
    size = max(float(own.abs().max()) for own in alone)
    within = _largest_move(logits[1][:-1], moved[1][:-1]) / size
    leak = max(_largest_move(logits[at], moved[at]) / size for at in _UNMOVED)
    if not leak <= leak_tolerance:
        return f"one document moves another's logits by {leak:.1e} of the largest"
    if not within <= leak_tolerance:
        return f"a token moves the logits before it by {within:.1e} of the largest"
    return None


# By place in the order of _LENGTHS.
_MOVED = (0, 5)
_UNMOVED = (2, 3, 4)


def _move_some(documents: Sequence[torch.Tensor], vocabulary: int) -> list[torch.Tensor]:
    """The documents with other tokens in the first and the last, and another last token in the second: no
    logits of the others may change, nor those of the second before its last."""
    moved = [tokens_T.clone() for tokens_T in documents]
    for at in _MOVED:
        moved[at] = (moved[at] + 1) % vocabulary
    moved[1][-1] = (moved[1][-1] + 1) % vocabulary
    return moved


def _largest_move(logits: torch.Tensor, moved: torch.Tensor) -> float:
    return float((logits - moved).abs().max())


def _passes(layout: RowLayout) -> list[Rows]:
    """The documents of _LENGTHS, in order, as forward passes of this layout make rows of them."""
    if layout == "packed":
        return [_LENGTHS]
    each: Rows = tuple((length,) for row in _LENGTHS for length in row)
    return [each] if layout == "padded" else [(row,) for row in each]


def _places(rows: Rows) -> Iterator[tuple[int, int, int]]:
    """(row, first column, length) of each document."""
    for row, lengths in enumerate(rows):
        for document, length in enumerate(lengths):
            yield row, sum(lengths[:document]), length


def _first_line(error: Exception) -> str:
    kind = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
    return f"{kind}{error}".partition("\n")[0][:200]
