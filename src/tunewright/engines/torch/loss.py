"""Weighted next-token loss, computed only on the rows that have a label.

Hidden states of label rows go through the output head in chunks, so that logits never exist for prompt or
padding positions, nor for more than one chunk at a time.
"""

# B rows, T tokens of a row, L label rows, D model width, V vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tunewright.data.collate import WIDTH_STEP
from tunewright.engines.torch.device import send
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.fast.build import has_fast_layers
from tunewright.engines.torch.frozen_head import frozen_head_loss, has_frozen_head
from tunewright.engines.torch.load import vocabulary_size
from tunewright.engines.torch.varlen import takes_documents
from tunewright.models.activations import CHUNK_ELEMENTS, CUDA_ELEMENTS
from tunewright.types import Batch

# A label that counts for nothing; it never leaves this file.
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class DeviceSums:
    """What a forward pass adds up on the device: loss carries the gradient. Both are scalars."""

    loss: torch.Tensor
    correct: torch.Tensor


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A batch on the device. rows_L: flat index into B·T of each position whose next token is a
    label, then ignored ones up to a multiple of WIDTH_STEP."""

    tokens_BT: torch.Tensor
    positions_BT: torch.Tensor
    rows_L: torch.Tensor
    labels_L: torch.Tensor
    weights_L: torch.Tensor
    documents: Documents


def to_device(batch: Batch, device: torch.device) -> DeviceBatch:
    """Copy a batch over, with the index of its label rows built on the host."""
    tokens = batch.tokens_BT.astype(np.int64)
    row, column = np.nonzero(batch.weights_BT[:, 1:] > 0)
    labels_at = (row, column + 1)
    # Labels come in few counts for the same reason that rows come in few widths; the rest is ignored.
    extra = (0, -len(row) % WIDTH_STEP)
    rows_L = np.pad(row * tokens.shape[1] + column, extra)
    labels_L = np.pad(tokens[labels_at], extra, constant_values=_IGNORED)
    weights_L = np.pad(batch.weights_BT[labels_at].astype(np.float32), extra)
    return DeviceBatch(
        tokens_BT=send(tokens, device),
        positions_BT=send(batch.positions_BT.astype(np.int64), device),
        rows_L=send(rows_L, device),
        labels_L=send(labels_L, device),
        weights_L=send(weights_L, device),
        documents=Documents(batch.doc_lengths),
    )


def batch_loss(model: PreTrainedModel, batch: DeviceBatch, *, by_rows: bool) -> DeviceSums:
    """Σ weight · negative log-likelihood and the count of right argmaxes over the labels of the batch.

    by_rows: as check_head decided; without it the model's own full logits are used.
    """
    if by_rows:
        labels_only = {"label_rows": batch.rows_L} if has_fast_layers(model) else {}
        hidden_BTD = model.base_model(**_inputs(model, batch), **labels_only).last_hidden_state
        hidden_LD = hidden_BTD[0] if labels_only else hidden_BTD.flatten(0, 1)[batch.rows_L]
        return _sum_chunks(model, hidden_LD, batch)
    logits_BTV = model(**_inputs(model, batch)).logits
    return _sums(logits_BTV.flatten(0, 1)[batch.rows_L], batch.labels_L, batch.weights_L)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> bool:
    """Whether hidden states → head → known logit transforms equals the model's own logits, on this model."""
    if model.get_output_embeddings() is None or model.base_model is model:
        return False
    tokens_BT = torch.arange(8, device=model.device)[None] % vocabulary_size(model)
    documents = {"documents": Documents(((8,),))} if takes_documents(model) else {}
    own = model(input_ids=tokens_BT, use_cache=False, **documents).logits.float()
    hidden = model.base_model(input_ids=tokens_BT, use_cache=False, **documents).last_hidden_state
    ours = _head_logits(model, hidden)
    # The same numbers from the same hidden states: only the rounding of a soft cap may differ in 16 bits.
    tolerance = (1e-5 if hidden.dtype == torch.float32 else 2e-2) * float(own.abs().max())
    return own.shape == ours.shape and float((own - ours.float()).abs().max()) <= tolerance


def _inputs(model: PreTrainedModel, batch: DeviceBatch) -> dict[str, object]:
    inputs: dict[str, object] = {
        "input_ids": batch.tokens_BT,
        "position_ids": batch.positions_BT,
        "use_cache": False,
    }
    if takes_documents(model):
        inputs["documents"] = batch.documents
    return inputs


def _sum_chunks(model: PreTrainedModel, hidden_LD: torch.Tensor, batch: DeviceBatch) -> DeviceSums:
    if has_frozen_head(model) and (head := _head_weight(model, hidden_LD)) is not None:
        return DeviceSums(*frozen_head_loss(hidden_LD.to(head.dtype), head, batch.labels_L, batch.weights_L))
    elements = CUDA_ELEMENTS if hidden_LD.device.type == "cuda" else CHUNK_ELEMENTS
    size = max(1, elements // vocabulary_size(model))
    if len(hidden_LD) <= size:
        return _chunk(model, hidden_LD, batch.labels_L, batch.weights_L)
    loss = hidden_LD.new_zeros((), dtype=torch.float32)
    correct = torch.zeros((), dtype=torch.int64, device=hidden_LD.device)
    chunks = zip(hidden_LD.split(size), batch.labels_L.split(size), batch.weights_L.split(size), strict=True)
    for hidden, labels, weights in chunks:
        # Recomputing the logits of a chunk in the backward pass costs one matmul and saves L · V floats.
        sums = checkpoint(_chunk, model, hidden, labels, weights, use_reentrant=False)
        loss, correct = loss + sums.loss, correct + sums.correct
    return DeviceSums(loss, correct)


def _head_weight(model: PreTrainedModel, hidden_LD: torch.Tensor) -> torch.Tensor | None:
    """The head's weight in the type that its matrix product is computed in. None for fp16, whose range a
    gradient made before the loss is scaled may leave."""
    weight = cast(nn.Linear, model.get_output_embeddings()).weight
    kind = hidden_LD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return None if dtype == torch.float16 else weight.to(dtype)


def _chunk(
    model: PreTrainedModel, hidden_LD: torch.Tensor, labels_L: torch.Tensor, weights_L: torch.Tensor
) -> DeviceSums:
    return _sums(_head_logits(model, hidden_LD), labels_L, weights_L)


def _head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits with the scale and soft cap of the families that have one; check_head proves it complete."""
    config = model.config.get_text_config()
    head = cast(nn.Module, model.get_output_embeddings())
    logits = head(hidden)
    if getattr(config, "logit_scale", None) is not None:
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _sums(logits_LV: torch.Tensor, labels_L: torch.Tensor, weights_L: torch.Tensor) -> DeviceSums:
    nll_L = F.cross_entropy(logits_LV.float(), labels_L, reduction="none", ignore_index=_IGNORED)
    correct = (logits_LV.detach().argmax(-1) == labels_L).sum()
    return DeviceSums((nll_L * weights_L).sum(), correct)
