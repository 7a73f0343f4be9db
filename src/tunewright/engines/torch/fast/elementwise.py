"""What a decoder layer does between matrix products, forward and backward, as functions of tensors.

Each works on one value after the other, so a compiler makes one loop of it. Without one they are written in
place where they can be: on a CPU a fresh tensor costs more than what is computed into it. Statistics are in
fp32.
"""

# S tokens, D model width, F inner width of the MLP, C heads, W width of a head

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

ACTIVATIONS = {"silu": "silu", "gelu": "none", "gelu_pytorch_tanh": "tanh"}
"""`hidden_act` of a config → what gate() calls it."""


def norm(h_SD: torch.Tensor, weight_D: torch.Tensor, epsilon: float, shift: float) -> torch.Tensor:
    """RMS norm times (weight + shift), in the type of the weight."""
    x_SD = h_SD.float()
    return (x_SD * _inverse(x_SD, epsilon)).mul_(weight_D.float() + shift).to(weight_D.dtype)


def norm_backward(
    dx_SD: torch.Tensor, h_SD: torch.Tensor, weight_D: torch.Tensor, epsilon: float, shift: float
) -> torch.Tensor:
    """Gradient of norm() towards h_SD, in fp32."""
    x_SD = h_SD.float()
    inverse_S1 = _inverse(x_SD, epsilon)
    x_SD = x_SD * inverse_S1
    g_SD = dx_SD.float() * (weight_D.float() + shift)
    along_S1 = (g_SD * x_SD).mean(-1, keepdim=True)
    return g_SD.sub_(x_SD.mul_(along_S1)).mul_(inverse_S1)


def norm_backward_add(
    dx_SD: torch.Tensor, h_SD: torch.Tensor, weight_D: torch.Tensor, epsilon: float, shift: float,
    residual_SD: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The same plus the gradient that came past the norm, rounded once."""
    return norm_backward(dx_SD, h_SD, weight_D, epsilon, shift).add_(residual_SD).to(h_SD.dtype)


def gate(both_S2F: torch.Tensor, activation: str) -> torch.Tensor:
    """activation(gate) · up, of [gate, up] side by side."""
    gate_SF, up_SF = both_S2F.chunk(2, -1)
    return _activate(gate_SF, activation).mul_(up_SF)


def gate_backward(
    dy_SF: torch.Tensor, both_S2F: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient of [gate, up], gate(both) once more)."""
    gate_SF, up_SF = both_S2F.chunk(2, -1)
    act_SF = _activate(gate_SF, activation)
    dact_SF = dy_SF * up_SF
    if activation == "silu":
        dgate_SF = torch.ops.aten.silu_backward(dact_SF, gate_SF)
    else:
        dgate_SF = torch.ops.aten.gelu_backward(dact_SF, gate_SF, approximate=activation)
    return torch.cat((dgate_SF, dy_SF * act_SF), -1), act_SF.mul_(up_SF)


def _inverse(x_SD: torch.Tensor, epsilon: float) -> torch.Tensor:
    """1 / root mean square, [S, 1]."""
    squares_S1 = torch.linalg.vector_norm(x_SD, dim=-1, keepdim=True).square_()
    return squares_S1.div_(x_SD.shape[-1]).add_(epsilon).rsqrt_()


def _activate(gate_SF: torch.Tensor, activation: str) -> torch.Tensor:
    return F.silu(gate_SF) if activation == "silu" else F.gelu(gate_SF, approximate=activation)


def turn(x_SCW: torch.Tensor, cos_SW: torch.Tensor, sin_SW: torch.Tensor, turned: int) -> torch.Tensor:
    """Rotary position embedding of the first `turned` heads. Both halves of cos and of sin are the same, so
    that -sin turns back."""
    head_SCW = x_SCW[:, :turned]
    first, second = head_SCW.chunk(2, -1)
    swapped_SCW = torch.cat((-second, first), -1)
    return torch.cat((head_SCW * cos_SW[:, None] + swapped_SCW * sin_SW[:, None], x_SCW[:, turned:]), 1)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """The functions above, as they are or compiled."""

    norm: Callable[..., torch.Tensor] = norm
    norm_backward: Callable[..., torch.Tensor] = norm_backward
    norm_backward_add: Callable[..., torch.Tensor] = norm_backward_add
    gate: Callable[..., torch.Tensor] = gate
    gate_backward: Callable[..., tuple[torch.Tensor, torch.Tensor]] = gate_backward
    turn: Callable[..., torch.Tensor] = turn


EAGER = Elementwise()
