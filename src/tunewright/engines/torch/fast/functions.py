"""The pieces of a decoder layer as autograd functions that keep little: inputs of a norm and of a gate are
kept, what they give is computed again. Weights are frozen; adapters get gradients in fp32.
"""

# S tokens, D model width, F inner width of the MLP, R ranks of the adapters

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tunewright.engines.torch.fast.elementwise import Elementwise
from tunewright.engines.torch.fast.projection import Projection


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm: its weight is `weight + shift`."""

    weight: torch.Tensor
    epsilon: float
    shift: float

    @property
    def arguments(self) -> tuple[torch.Tensor, float, float]:
        return self.weight, self.epsilon, self.shift


@dataclass(frozen=True, slots=True)
class Inward:
    """A norm and the projection that reads it."""

    norm: Norm
    projection: Projection
    ops: Elementwise


@dataclass(frozen=True, slots=True)
class Mlp:
    """A norm, [gate, up], the activation, and the way back to the model's width."""

    inward: Inward
    down: Projection
    activation: str


@dataclass(frozen=True, slots=True)
class Turn:
    """Rotary tables [S, W] of the tokens, and what happens to queries and keys before. norms: of queries and
    of keys, or none."""

    cos_SW: torch.Tensor
    sin_SW: torch.Tensor
    query_heads: int
    key_heads: int
    norms: tuple[Norm, ...]
    ops: Elementwise

    @property
    def slices(self) -> tuple[slice, slice]:
        """Columns of queries and of keys."""
        turned = self.query_heads + self.key_heads
        return slice(self.query_heads), slice(self.query_heads, turned)


def project_normed(
    h_SD: torch.Tensor, inward: Inward, *, training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(projection of the normed h, h itself). Adding to the second one later costs no pass of its own."""
    result: Any = _ProjectNormed.apply(h_SD, inward, training, *inward.projection.parameters)
    return result


def turn_heads(qkv_SCW: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Queries and keys normed where the family does so, then turned by position; values as they are."""
    result: Any = _TurnHeads.apply(qkv_SCW, turn)
    return result


def project_add(
    x_SI: torch.Tensor, h_SD: torch.Tensor, projection: Projection, *, training: bool
) -> torch.Tensor:
    """h + projection of x."""
    result: Any = _ProjectAdd.apply(x_SI, h_SD, projection, training, *projection.parameters)
    return result


def add_mlp(h_SD: torch.Tensor, mlp: Mlp, *, training: bool) -> torch.Tensor:
    """h + down(activation(gate) · up) of the normed h."""
    adapters = (*mlp.inward.projection.parameters, *mlp.down.parameters)
    result: Any = _AddMlp.apply(h_SD, mlp, training, *adapters)
    return result


class _ProjectNormed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        h_SD, inward, training = args[:3]
        ctx.inward, ctx.seed = inward, _seed(inward.projection, training)
        y_SO, inner_SR = _inward(h_SD, inward, ctx.seed)
        ctx.save_for_backward(h_SD, inner_SR)
        return y_SO, h_SD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        dy_SO, residual_SD = grad_outputs
        h_SD, inner_SR = ctx.saved_tensors
        towards = ctx.needs_input_grad[0]
        dh_SD, adapters = _inward_backward(
            dy_SO, h_SD, inner_SR, ctx.inward, ctx.seed, residual_SD if towards else None
        )
        return dh_SD, None, None, *adapters


class _TurnHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        qkv_SCW, turn = args
        ctx.turn = turn
        if turn.norms:
            ctx.save_for_backward(qkv_SCW)
            qkv_SCW = qkv_SCW.clone()
            for norm, at in zip(turn.norms, turn.slices, strict=True):
                qkv_SCW[:, at] = turn.ops.norm(qkv_SCW[:, at], *norm.arguments)
        return turn.ops.turn(qkv_SCW, turn.cos_SW, turn.sin_SW, turn.query_heads + turn.key_heads)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        turn: Turn = ctx.turn
        d_SCW = turn.ops.turn(grad_outputs[0], turn.cos_SW, -turn.sin_SW, turn.query_heads + turn.key_heads)
        if turn.norms:
            (qkv_SCW,) = ctx.saved_tensors
            for norm, at in zip(turn.norms, turn.slices, strict=True):
                d_SCW[:, at] = turn.ops.norm_backward(d_SCW[:, at], qkv_SCW[:, at], *norm.arguments)
        return d_SCW, None


class _ProjectAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        x_SI, h_SD, projection, training = args[:4]
        ctx.projection, ctx.seed = projection, _seed(projection, training)
        wide_SE = projection.widen(x_SI, ctx.seed)
        ctx.save_for_backward(x_SI, _inner(wide_SE, projection))
        return h_SD + projection.project(wide_SE)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x_SI, inner_SR = ctx.saved_tensors
        dy_SO = grad_outputs[0].to(x_SI.dtype)
        dx_SI, dinner_SR = ctx.projection.backward_inputs(dy_SO, ctx.seed)
        adapters = ctx.projection.backward_adapters(dy_SO, x_SI, inner_SR, dinner_SR, ctx.seed)
        return dx_SI, grad_outputs[0], None, None, *adapters


class _AddMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        h_SD, mlp, training = args[:3]
        ctx.mlp = mlp
        ctx.seeds = _seed(mlp.inward.projection, training), _seed(mlp.down, training)
        both_S2F, inner_SR = _inward(h_SD, mlp.inward, ctx.seeds[0])
        wide_SE = mlp.down.widen(mlp.inward.ops.gate(both_S2F, mlp.activation), ctx.seeds[1])
        ctx.save_for_backward(h_SD, inner_SR, both_S2F, _inner(wide_SE, mlp.down))
        return h_SD + mlp.down.project(wide_SE)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        h_SD, inner_SR, both_S2F, down_inner_SR = ctx.saved_tensors
        mlp: Mlp = ctx.mlp
        seed, down_seed = ctx.seeds
        dy_SD = grad_outputs[0].to(both_S2F.dtype)
        dact_SF, dinner_SR = mlp.down.backward_inputs(dy_SD, down_seed)
        dboth_S2F, act_SF = mlp.inward.ops.gate_backward(dact_SF, both_S2F, mlp.activation)
        del dact_SF
        down_adapters = mlp.down.backward_adapters(dy_SD, act_SF, down_inner_SR, dinner_SR, down_seed)
        del act_SF
        residual_SD = grad_outputs[0] if ctx.needs_input_grad[0] else None
        dh_SD, adapters = _inward_backward(dboth_S2F, h_SD, inner_SR, mlp.inward, seed, residual_SD)
        return dh_SD, None, None, *adapters, *down_adapters


def _seed(projection: Projection, training: bool) -> int | None:
    return projection.draw_seed() if training else None


def _inward(h_SD: torch.Tensor, inward: Inward, seed: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    wide_SE = inward.projection.widen(inward.ops.norm(h_SD, *inward.norm.arguments), seed)
    return inward.projection.project(wide_SE), _inner(wide_SE, inward.projection)


def _inward_backward(
    dy_SO: torch.Tensor, h_SD: torch.Tensor, inner_SR: torch.Tensor, inward: Inward,
    seed: int | None, residual_SD: torch.Tensor | None,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:  # fmt: skip
    """(gradient of h with what came past the norm, gradients of the adapters). Without `residual_SD` nothing
    below trains, and the widest matrix product is left out."""
    projection, norm = inward.projection, inward.norm
    if residual_SD is None:
        dx_SD, dinner_SR = None, projection.backward_inner(dy_SO)
    else:
        dx_SD, dinner_SR = projection.backward_inputs(dy_SO, seed)
    x_SD = inward.ops.norm(h_SD, *norm.arguments)
    adapters = projection.backward_adapters(dy_SO, x_SD, inner_SR, dinner_SR, seed)
    if dx_SD is None:
        return None, adapters
    return inward.ops.norm_backward_add(dx_SD, h_SD, *norm.arguments, residual_SD), adapters


def _inner(wide_SE: torch.Tensor, projection: Projection) -> torch.Tensor:
    """A copy, so that the wide input need not live until the backward pass."""
    return wide_SE[:, projection.inputs :].clone()
