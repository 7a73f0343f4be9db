"""Linear layers that read the same input, as one matrix product with their adapters inside it.

y = [x, d(x) Aᵀ] · [W, s B]ᵀ, with dropout d: the adapter is a few more columns of the weight, so that base
and adapter are added up in fp32 and rounded once. The columns are laid out once; their values come from the
masters in each pass. Adapters that read the same input share the mask of their dropout.
"""

# S tokens, I inputs, O outputs of all layers together, R ranks of all adapters together, E = I + R

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tunewright.engines.torch.fast.dropout import draw_seed, drop
from tunewright.engines.torch.lora import LoraLinear
from tunewright.engines.torch.quantize import Linear4bit

# Rows of the wide weight then start at multiples of 16 bytes, which GPU kernels ask for.
_RANK_STEP = 8

Linear = nn.Linear | Linear4bit | LoraLinear


@dataclass(frozen=True, slots=True)
class _Part:
    """One layer: the rows of its outputs, and the columns of its adapter among all adapters."""

    layer: Linear
    outputs: slice
    ranks: slice

    @property
    def base(self) -> nn.Linear | Linear4bit:
        layer = self.layer.base_layer if isinstance(self.layer, LoraLinear) else self.layer
        # No family with fast layers stores its weights the other way round.
        assert not isinstance(layer, Conv1D)
        return layer

    @property
    def adapter(self) -> tuple[nn.Parameter, nn.Parameter]:
        layer: Any = self.layer
        return layer.lora_A.weight, layer.lora_B.weight

    @property
    def scale(self) -> float:
        return cast(LoraLinear, self.layer).scale

    @property
    def dropout(self) -> float:
        return cast(LoraLinear, self.layer).dropout


class Projection:
    """Takes over the weights of `layers`: they become views of one wide weight and keep their names. Packed
    ones stay as they are and are read back into a wide weight that lives for one product."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        self._parts = _lay_out(layers)
        self._adapted = [part for part in self._parts if isinstance(part.layer, LoraLinear)]
        last = self._parts[-1]
        self.inputs, self.outputs = layers[0].in_features, last.outputs.stop
        self.dropout = max((part.dropout for part in self._adapted), default=0.0)
        self.ranks = -(-last.ranks.stop // _RANK_STEP) * _RANK_STEP
        first = layers[0].weight
        self._bias_O = _merge_biases(self._parts, first)
        self._down_RI = first.new_zeros(self.ranks, self.inputs)
        self._wide_OE: torch.Tensor | None = None
        if any(isinstance(part.base, Linear4bit) for part in self._parts):
            self._up_OR = first.new_zeros(self.outputs, self.ranks)
        else:
            self._wide_OE = _merge_weights(self._parts, first, self.inputs + self.ranks)
            self._up_OR = self._wide_OE[:, self.inputs :]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """A and B of each adapter, in the order in which backward_adapters() returns their gradients."""
        return [weight for part in self._adapted for weight in part.adapter]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the adapters' values of now."""
        for part in self._adapted:
            down, up = part.adapter
            self._down_RI[part.ranks].copy_(down)
            self._up_OR[part.outputs, part.ranks].copy_(up * part.scale)

    def draw_seed(self) -> int | None:
        """What the mask of a forward pass is drawn from; None without dropout."""
        return draw_seed() if self.dropout else None

    def widen(self, x_SI: torch.Tensor, seed: int | None) -> torch.Tensor:
        """[x, d(x) Aᵀ]."""
        return torch.cat((x_SI, self._drop(x_SI, seed) @ self._down_RI.t()), 1) if self.ranks else x_SI

    def project(self, x_SE: torch.Tensor) -> torch.Tensor:
        """Outputs of all layers side by side, of what widen() made."""
        return F.linear(x_SE, self._weight(), self._bias_O)

    def backward_inputs(self, dy_SO: torch.Tensor, seed: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(gradient of x, gradient of d(x) Aᵀ)."""
        d_SE = dy_SO @ self._weight()
        dx_SI, dinner_SR = d_SE[:, : self.inputs], d_SE[:, self.inputs :]
        if self.ranks and seed is None:
            dx_SI.addmm_(dinner_SR, self._down_RI)
        elif self.ranks:
            dx_SI.add_(self._drop(dinner_SR @ self._down_RI, seed))
        return dx_SI, dinner_SR

    def backward_inner(self, dy_SO: torch.Tensor) -> torch.Tensor:
        """The second of backward_inputs() alone, where nothing below trains."""
        return dy_SO @ self._up_OR

    def backward_adapters(
        self, dy_SO: torch.Tensor, x_SI: torch.Tensor, inner_SR: torch.Tensor, dinner_SR: torch.Tensor,
        seed: int | None,
    ) -> list[torch.Tensor]:  # fmt: skip
        """Gradients of `parameters`. inner_SR: the last columns of what widen() made."""
        gradients: list[torch.Tensor] = []
        dA_RI = dinner_SR.t() @ self._drop(x_SI, seed) if self.ranks else dinner_SR
        for part in self._adapted:
            dB_OR = dy_SO[:, part.outputs].t() @ inner_SR[:, part.ranks]
            gradients += [dA_RI[part.ranks].float(), dB_OR.float() * part.scale]
        return gradients

    def _drop(self, x_SI: torch.Tensor, seed: int | None) -> torch.Tensor:
        return x_SI if seed is None else drop(x_SI, self.dropout, seed)

    def _weight(self) -> torch.Tensor:
        """[W, s B]."""
        if self._wide_OE is not None:
            return self._wide_OE
        # Straight into its place: joining the parts first would copy every weight once more in each product.
        wide_OE = self._up_OR.new_empty(self.outputs, self.inputs + self.ranks)
        wide_OE[:, self.inputs :] = self._up_OR
        for part in self._parts:
            wide_OE[part.outputs, : self.inputs] = part.base.weight
        return wide_OE


def _lay_out(layers: Sequence[Linear]) -> list[_Part]:
    parts: list[_Part] = []
    outputs = ranks = 0
    for layer in layers:
        rank = layer.lora_A.out_features if isinstance(layer, LoraLinear) else 0
        parts.append(_Part(layer, slice(outputs, outputs + layer.out_features), slice(ranks, ranks + rank)))
        outputs, ranks = outputs + layer.out_features, ranks + rank
    return parts


def _merge_weights(parts: Sequence[_Part], like: torch.Tensor, width: int) -> torch.Tensor:
    wide_OE = like.new_zeros(parts[-1].outputs.stop, width)
    for part in parts:
        weight = part.base.weight
        wide_OE[part.outputs, : weight.shape[1]] = weight.detach()
        weight.data = wide_OE[part.outputs, : weight.shape[1]]
    return wide_OE


def _merge_biases(parts: Sequence[_Part], like: torch.Tensor) -> torch.Tensor | None:
    if all(part.base.bias is None for part in parts):
        return None
    bias_O = like.new_zeros(parts[-1].outputs.stop)
    for part in parts:
        if part.base.bias is not None:
            bias_O[part.outputs] = part.base.bias.detach()
    return bias_O
