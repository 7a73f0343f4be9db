"""Proof, on the real model, that the document attention computes what the model's own attention does.

A wrong window or soft cap trains without an error message, and only the model itself knows what is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tunewright.engines.torch.attention import ATTENTION_NAME
from tunewright.engines.torch.attention_call import UnsupportedAttentionError
from tunewright.engines.torch.device import is_out_of_memory
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.load import set_attention, vocabulary_size
from tunewright.engines.torch.precision import compute_in
from tunewright.engines.torch.varlen import VARLEN_NAME, activate_fa3, has_varlen, restore_fa2
from tunewright.errors import EngineError

# Windows are narrowed to this for the check: the mechanism is the same, and 7B models have windows of 4096.
_WINDOW = 16
# Two rows of documents: single tokens, equal lengths, one longer than two windows, padding at both ends.
_LENGTHS = ((5, 2 * _WINDOW + 9, 1), (7, 7, 12))
_ROW = max(sum(lengths) for lengths in _LENGTHS) + 3
# Largest difference of a document's logits, in the L2 norm. bf16 holds 8 bits and the two paths round
# elsewhere: 0.01 to 0.04 were measured on right ones of 2 to 24 layers, where a single logit was off by more.
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


def choose_attention(model: PreTrainedModel, requested: str, precision: str) -> str:
    """Set and return the attention that the model trains with: `varlen` (one flash kernel for documents of
    all lengths), `sdpa` (one length of documents after the other) or `eager`.

    `auto` falls back to eager when no check passes, and what is returned says why; `sdpa` then raises
    EngineError. `eager` is the model's own attention under a dense mask of documents.
    """
    if requested == "eager":
        set_attention(model, "eager")
        return "eager"
    fault = ""
    for name, shown in _candidates(model.device, precision):
        fault = check_attention(model, precision, name)
        if fault is None:
            set_attention(model, name)
            return shown
    if requested != "auto":
        raise EngineError(
            f"attention per document does not fit {type(model).__name__}: {fault}",
            where="model.attention",
            got=requested,
            expected="auto or eager",
            hint="set model.attention: eager",
            code="engine.attention-mismatch",
        )
    set_attention(model, "eager")
    return f"eager ({fault})"


def _candidates(device: torch.device, precision: str) -> Iterator[tuple[str, str]]:
    """(registered name, name for a person), the fastest first."""
    if has_varlen(device, precision):
        if activate_fa3(device):
            yield VARLEN_NAME, "varlen (FA3)"
            restore_fa2()
        yield VARLEN_NAME, "varlen"
    yield ATTENTION_NAME, "sdpa"


@torch.no_grad()
def check_attention(model: PreTrainedModel, precision: str, name: str = ATTENTION_NAME) -> str | None:
    """What is wrong with the document attention `name` on this model; None when nothing is.

    Packed logits must equal the model's own eager forward of each document alone, and other tokens in one
    document must move nothing in another. A flash kernel must go backward too: its code for that is another,
    which would else fail in the first step. Leaves the model as it was.
    """
    tokens_BT = _sample_tokens(model)
    changed_BT = tokens_BT.clone()
    changed_BT[0, :5] = (changed_BT[0, :5] + 1) % vocabulary_size(model)
    before = model.config._attn_implementation or "eager"
    try:
        with _narrow_windows(model), compute_in(precision, model.device):
            set_attention(model, "eager")
            alone = _document_logits(model, tokens_BT)
            set_attention(model, name)
            try:
                packed, moved = _packed_logits(model, tokens_BT), _packed_logits(model, changed_BT)
                if name == VARLEN_NAME and not _has_gradients(model, tokens_BT):
                    return "its gradients are not finite"
            except UnsupportedAttentionError as error:
                return str(error)
            except RuntimeError as error:
                # A kernel that this GPU, driver or head width does not take.
                if name == ATTENTION_NAME or is_out_of_memory(error):
                    raise
                return str(error).splitlines()[0]
    finally:
        set_attention(model, before)
    return _compare(alone, packed, moved, _TOLERANCE[precision])


def _compare(
    alone: list[torch.Tensor], packed: list[torch.Tensor], moved: list[torch.Tensor], tolerance: float
) -> str | None:
    # Not max(): it would pass over NaN.
    for own, ours in zip(alone, packed, strict=True):
        wrong = float((own - ours).norm() / own.norm())
        if not wrong <= tolerance:
            return f"logits differ by {wrong:.1e} of their norm from those of single documents"
    size = max(float(logits.abs().max()) for logits in alone)
    leak = max(float((p - m).abs().max()) for p, m in zip(packed[1:], moved[1:], strict=True)) / size
    if not leak <= tolerance / 10:
        return f"one document moves another's logits by {leak:.1e} of the largest"
    return None


def _sample_tokens(model: PreTrainedModel) -> torch.Tensor:
    draw = np.random.Generator(np.random.Philox(0))
    tokens = draw.integers(0, vocabulary_size(model), size=(len(_LENGTHS), _ROW))
    return torch.from_numpy(tokens).to(model.device)


def _document_logits(model: PreTrainedModel, tokens_BT: torch.Tensor) -> list[torch.Tensor]:
    logits = []
    for row, start, length in _places():
        tokens = tokens_BT[row : row + 1, start : start + length]
        logits.append(model(input_ids=tokens, use_cache=False).logits[0].float())
    return logits


def _packed_logits(model: PreTrainedModel, tokens_BT: torch.Tensor) -> list[torch.Tensor]:
    logits_BTV = model(input_ids=tokens_BT, use_cache=False, **_layout(tokens_BT)).logits
    return [logits_BTV[row, start : start + length].float() for row, start, length in _places()]


def _has_gradients(model: PreTrainedModel, tokens_BT: torch.Tensor) -> bool:
    """Whether a backward pass through all layers gives numbers, at what the embedding puts in. Weights are
    frozen here, and none gets a gradient."""
    embedded_BTD = model.get_input_embeddings()(tokens_BT).detach()
    with torch.enable_grad():
        embedded_BTD.requires_grad_()
        logits_BTV = model(inputs_embeds=embedded_BTD, use_cache=False, **_layout(tokens_BT)).logits
        (gradient_BTD,) = torch.autograd.grad(logits_BTV.float().square().mean(), embedded_BTD)
    return bool(gradient_BTD.isfinite().all())


def _layout(tokens_BT: torch.Tensor) -> dict[str, Any]:
    positions_BT = torch.zeros_like(tokens_BT)
    for row, start, length in _places():
        positions_BT[row, start : start + length] = torch.arange(length)
    return {"position_ids": positions_BT, "documents": Documents(_LENGTHS)}


def _places() -> Iterator[tuple[int, int, int]]:
    for row, lengths in enumerate(_LENGTHS):
        for document, length in enumerate(lengths):
            yield row, sum(lengths[:document]), length


@contextmanager
def _narrow_windows(model: PreTrainedModel) -> Iterator[None]:
    """Set every sliding window above the check's to the check's, in the layers and in the config."""
    holders = [model.config.get_text_config(), *model.modules()]
    wide = [(holder, window) for holder in holders if (window := _window(holder)) and window > _WINDOW]
    for holder, _ in wide:
        holder.sliding_window = _WINDOW
    try:
        yield
    finally:
        for holder, window in wide:
            holder.sliding_window = window


def _window(holder: object) -> int | None:
    window = getattr(holder, "sliding_window", None)
    return window if isinstance(window, int) else None
