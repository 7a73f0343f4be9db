"""Next-token loss under a frozen output head, with the gradient made while the logits are there.

Nothing trains in the head, so all that backward needs of a chunk of logits is the gradient of its hidden
states. Logits are computed once, and neither kept nor recomputed.
"""

# L label rows, D model width, V vocabulary

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tunewright.models.activations import BLOCK_ELEMENTS, CUDA_ELEMENTS, FROZEN_ELEMENTS


def has_frozen_head(model: PreTrainedModel) -> bool:
    """Whether logits are hidden · weightᵀ and nothing else, with a weight that does not train."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    changed = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    return (
        type(head) is nn.Linear
        and head.bias is None
        and not head.weight.requires_grad
        and all(getattr(config, name, None) is None for name in changed)
    )


def frozen_head_loss(
    hidden_LD: torch.Tensor, weight_VD: torch.Tensor, labels_L: torch.Tensor, weights_L: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ weight · negative log-likelihood in nats, count of right argmaxes); labels below 0 count nothing.

    Matrix products are in the type of the hidden states, everything else in fp32.
    """
    loss, correct = _FrozenHeadLoss.apply(hidden_LD, weight_VD, labels_L, weights_L)
    return loss, correct


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_LD, weight_VD, labels_L, weights_L = args
        gradient_LD = torch.empty_like(hidden_LD) if ctx.needs_input_grad[0] else None
        loss = hidden_LD.new_zeros((), dtype=torch.float32)
        correct = torch.zeros((), dtype=torch.int64, device=hidden_LD.device)
        rows = _rows_of_chunk(hidden_LD.device, len(weight_VD))
        for start in range(0, len(hidden_LD), rows):
            chunk = slice(start, start + rows)
            logits_LV = hidden_LD[chunk] @ weight_VD.t()
            for part in _blocks(logits_LV):
                at = slice(start + part.start, start + part.stop)
                sums = _take_loss(logits_LV[part], labels_L[at], weights_L[at])
                loss, correct = loss + sums[0], correct + sums[1]
            if gradient_LD is not None:
                torch.mm(logits_LV, weight_VD, out=gradient_LD[chunk])
        ctx.save_for_backward(gradient_LD)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (gradient_LD,) = ctx.saved_tensors
        return gradient_LD * grad_outputs[0].to(gradient_LD.dtype), None, None, None


def _rows_of_chunk(device: torch.device, vocabulary: int) -> int:
    if device.type != "cuda":
        return max(1, FROZEN_ELEMENTS // vocabulary)
    rows = max(1, CUDA_ELEMENTS // vocabulary)
    # Matrix products there are cut into tiles of 128 rows.
    return rows - rows % 128 if rows > 128 else rows


def _blocks(logits_LV: torch.Tensor) -> list[slice]:
    rows, vocabulary = logits_LV.shape
    size = rows if logits_LV.device.type != "cpu" else max(1, BLOCK_ELEMENTS // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _take_loss(
    logits_LV: torch.Tensor, labels_L: torch.Tensor, weights_L: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, correct) of a block, whose logits are overwritten by their gradient."""
    at_L1 = labels_L.clamp(min=0)[:, None]
    best = logits_LV.max(-1)
    values_LV = logits_LV.float()
    label_L = values_LV.gather(1, at_L1)[:, 0]
    values_LV = values_LV.sub_(best.values.float()[:, None]).exp_()
    sum_L = values_LV.sum(-1)
    loss = ((sum_L.log() + best.values.float() - label_L) * weights_L).sum()
    correct = (best.indices == labels_L).sum()
    # d loss / d logit = weight · (softmax - 1 at the label)
    values_LV.mul_((weights_L / sum_L)[:, None])
    values_LV.scatter_add_(1, at_L1, -weights_L[:, None])
    logits_LV.copy_(values_LV)
    return loss, correct
