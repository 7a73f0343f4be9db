"""Frozen linear layers in nf4 with quantised scales: the base of QLoRA (arXiv:2305.14314).

The 4-bit values are those of bitsandbytes. The layer is our own: that of bitsandbytes repacks its weight when
a CPU evaluates it, and from then on no gradient goes through.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.bitsandbytes_import import INSTALL_HINT, functional, is_installed
from tunewright.errors import EngineError

_BLOCK_SIZE = 64


def check_quantization(spec: EngineSpec, device: torch.device) -> None:
    """Raise EngineError unless this machine can train on a base stored as `spec.quantization` says."""
    if spec.quantization == "none":
        return
    got, expected, hint = spec.quantization, None, None
    if spec.quantization != "nf4":
        what, expected = "the torch engine does not know this quantisation", "none or nf4"
    elif spec.adapter.kind == "none":
        what, hint = "quantised weights cannot be trained themselves", "set adapter.kind: lora"
    elif device.type not in ("cpu", "cuda"):
        what, got, expected = "nf4 does not run on this device", device.type, "cpu or cuda"
        hint = "set engine: mlx and model.quantization: 4bit, or model.quantization: none"
    elif not is_installed():
        what, hint = "nf4 needs bitsandbytes, which is not installed", INSTALL_HINT
    else:
        return
    raise EngineError(
        what,
        where="model.quantization.kind",
        got=got,
        expected=expected,
        hint=hint,
        code="engine.unsupported-option",
    )


class Linear4bit(nn.Module):
    """y = x Wᵀ + bias, with W [out, in] in nf4, read back into `compute_dtype` for each use and never kept.

    W is neither parameter nor buffer: nothing trains it, saves it or moves it. It stays on the device of the
    weight that it was made from.
    """

    def __init__(self, weight: torch.Tensor, bias: nn.Parameter | None, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.compute_dtype = compute_dtype
        self.bias = bias
        self.packed, self.state = functional().quantize_4bit(
            weight, blocksize=_BLOCK_SIZE, compress_statistics=True, quant_type="nf4"
        )
        # What reading back gives; the weight may have come in another type.
        self.state.dtype = compute_dtype
        _share_tables(self.state)

    @property
    def weight(self) -> torch.Tensor:
        """[out, in], read back: the numbers that the layer computes with."""
        return functional().dequantize_4bit(self.packed, self.state)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weight as it is held: packed values, and scales of both levels."""
        scales = self.state.state2
        kept = (self.packed, self.state.absmax, self.state.offset, scales.absmax)
        return sum(tensor.numel() * tensor.itemsize for tensor in kept)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: Any = _PackedMatmul.apply(x.to(self.compute_dtype), self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _PackedMatmul(torch.autograd.Function):
    """x Wᵀ that keeps no W for the backward pass, and gives none a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Linear4bit) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ ctx.layer.weight, None


def count_parameters(model: nn.Module) -> int:
    """Parameters of the model, packed weights counted one by one."""
    packed = sum(m.out_features * m.in_features for m in model.modules() if isinstance(m, Linear4bit))
    return packed + sum(parameter.numel() for parameter in model.parameters())


_TABLES: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}


def _share_tables(state: Any) -> None:
    """Both code tables are the same for every layer; bitsandbytes makes new ones each time."""
    tables = _TABLES.setdefault(state.absmax.device, (state.code, state.state2.code))
    state.code, state.state2.code = tables
