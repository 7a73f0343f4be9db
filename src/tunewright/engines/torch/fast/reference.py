"""A decoder layer computed in fp32, whatever its weights are stored in: the reference of ways to compute it
in 16 bits.

No weight is converted as a whole: each linear layer reads its own in fp32 for one product and lets go of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tunewright.engines.torch.attention import ATTENTION_NAME
from tunewright.engines.torch.load import set_attention
from tunewright.engines.torch.quantize import Linear4bit


@contextmanager
def computing_in_fp32(model: PreTrainedModel, layer: nn.Module) -> Iterator[None]:
    """Inside, `layer` of `model` gives what fp32 gives of fp32 inputs. Norms and adapters follow their
    inputs; the flash kernels have no fp32, so attention is the other one over documents."""
    linears: list[Any] = [m for m in layer.modules() if isinstance(m, (nn.Linear, Linear4bit))]
    attention = str(model.config._attn_implementation)
    with ExitStack() as undo:
        undo.enter_context(torch.autocast(model.device.type, enabled=False))
        if attention != ATTENTION_NAME:
            undo.callback(set_attention, model, attention)
            set_attention(model, ATTENTION_NAME)
        for linear in linears:
            undo.callback(delattr, linear, "forward")
            linear.forward = partial(_fine_linear, linear)
        yield


def to_fp32(value: Any) -> Any:
    """Floating tensors in fp32, also those in a tuple; everything else as it is."""
    if isinstance(value, tuple):
        return tuple(to_fp32(part) for part in value)
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if floating else value


def _fine_linear(linear: nn.Linear | Linear4bit, x: torch.Tensor) -> torch.Tensor:
    if linear.weight.requires_grad:  # an adapter, an fp32 master
        return nn.functional.linear(x, linear.weight)
    y: Any = _FineMatmul.apply(x, linear)
    return y if linear.bias is None else y + linear.bias.float()


class _FineMatmul(torch.autograd.Function):
    """x Wᵀ in fp32, W read again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        x, ctx.linear = args
        return x @ ctx.linear.weight.float().t()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0] @ ctx.linear.weight.float(), None
