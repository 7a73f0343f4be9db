"""The attention and the layout of rows that a model trains with: the first that is proved right on it.

Nothing trains unproved, the model's own eager attention under a mask of documents included: recurrent and
convolution state crosses from one document to the next whatever the attention is. Such models take one
document a row, where that is proved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tunewright.engines.torch.attention import ATTENTION_NAME
from tunewright.engines.torch.attention_check import AttentionCheck
from tunewright.engines.torch.load import set_attention
from tunewright.engines.torch.varlen import VARLEN_NAME, activate_fa3, has_varlen, restore_fa2
from tunewright.errors import EngineError
from tunewright.types import RowLayout

_LAYOUTS: tuple[RowLayout, ...] = get_args(RowLayout)


@dataclass(frozen=True, slots=True)
class Attention:
    """name: for a person: `varlen` (one flash kernel for documents of all lengths), `sdpa` (one length of
    documents after the other) or `eager`, with the reason where it is a fall-back. layout: the fullest rows
    that are proved. reason: why not fuller ones."""

    name: str
    layout: RowLayout = "packed"
    reason: str = ""


def choose_attention(
    model: PreTrainedModel, requested: str, precision: str, sample: Sequence[NDArray[np.int32]] = ()
) -> Attention:
    """Set the attention that the model trains with, and return it with the rows that it takes.

    `auto` tries the fastest first, `sdpa` attention per document alone, `eager` the model's own under a mask
    of documents. sample: rows of the run's data to prove it on. Raises EngineError
    (`engine.attention-mismatch`) when no layout of rows is proved.
    """
    check = AttentionCheck(model, precision, sample)
    packed_fault = fault = ""
    for layout in _LAYOUTS:
        passed_over = ""
        for name, shown in _candidates(model.device, precision, requested):
            found = check.fault(name, layout)
            if found is None:
                set_attention(model, name)
                is_fallback = requested == "auto" and name == "eager"
                return Attention(f"eager ({passed_over})" if is_fallback else shown, layout, packed_fault)
            passed_over = fault = found
        packed_fault = packed_fault or fault
    raise EngineError(
        f"no rows give {type(model).__name__} what it computes for a document alone: {fault}",
        where="model.name" if requested == "auto" else "model.attention",
        got=model.config.model_type if requested == "auto" else requested,
        expected="a causal language model" if requested == "auto" else "auto",
        hint="use another model" if requested == "auto" else "set model.attention: auto",
        code="engine.attention-mismatch",
    )


def _candidates(device: torch.device, precision: str, requested: str) -> Iterator[tuple[str, str]]:
    """(registered name, name for a person), the fastest first."""
    if requested != "eager":
        if has_varlen(device, precision):
            if activate_fa3(device):
                yield VARLEN_NAME, "varlen (FA3)"
                restore_fa2()
            yield VARLEN_NAME, "varlen"
        yield ATTENTION_NAME, "sdpa"
    if requested != "sdpa":
        yield "eager", "eager"
