"""Faults for one fast layer, each of which trains something else without an error message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.fast.elementwise import norm, turn
from tunewright.engines.torch.fast.layer import FastLayer
from tunewright.engines.torch.fast.projection import Projection

Plant = Callable[[FastLayer], None]


def missing_scale(layer: FastLayer) -> None:
    for projection in _projections(layer):
        projection.refresh = _without_scale(projection)  # type: ignore[method-assign]


def swapped_gate_and_up(layer: FastLayer) -> None:
    projection = layer.wide_mlp.inward.projection
    _after(projection, "project", lambda both: torch.cat(both.chunk(2, -1)[::-1], -1))


def swapped_keys_and_values(layer: FastLayer) -> None:
    heads, qkv = layer.facts.heads, layer.qkv
    width = qkv.outputs // heads.columns * heads.keys
    sizes = (qkv.outputs - 2 * width, width, width)

    def swap(wide: torch.Tensor) -> torch.Tensor:
        q, k, v = wide.split(sizes, -1)
        return torch.cat((q, v, k), -1)

    _after(qkv, "project", swap)


def leaking_document(layer: FastLayer) -> None:
    attend = layer._attend

    def leak(qkv_SO: torch.Tensor, documents: Documents, *rest: Any) -> torch.Tensor:
        return attend(qkv_SO, Documents(tuple((sum(row),) for row in documents.lengths)), *rest)

    layer._attend = leak  # type: ignore[method-assign]


def wrong_window(layer: FastLayer) -> None:
    """12 tokens, where the model has none or another one."""
    layer.facts = replace(layer.facts, window_holder=_Window(12))


def missing_residual(layer: FastLayer) -> None:
    compute = layer._compute

    def less(h_BTD: torch.Tensor, *rest: Any) -> torch.Tensor:
        out = compute(h_BTD, *rest)
        return out - (h_BTD if out.shape == h_BTD.shape else h_BTD.flatten(0, 1)[rest[-1]][None])

    layer._compute = less  # type: ignore[method-assign]


def missing_norm_weight(layer: FastLayer) -> None:
    ops = replace(layer.ops, norm=lambda h, w, e, s: norm(h, torch.ones_like(w) - s, e, s))
    layer.inward = replace(layer.inward, ops=ops)


def rotated_backwards(layer: FastLayer) -> None:
    layer.ops = replace(layer.ops, turn=lambda x, cos, sin, turned: turn(x, cos, -sin, turned))


def wrong_attention_scale(layer: FastLayer) -> None:
    layer.facts = replace(layer.facts, scale=1.2 * layer.facts.scale)


LAYER_FAULTS: tuple[Plant, ...] = (
    missing_scale,
    swapped_gate_and_up,
    swapped_keys_and_values,
    leaking_document,
    wrong_window,
    missing_residual,
    missing_norm_weight,
    rotated_backwards,
    wrong_attention_scale,
)


def shifted_label_rows(layer: FastLayer) -> None:
    """For the last layer, which computes label rows only."""
    compute = layer._compute

    def shift(h_BTD: torch.Tensor, documents: Documents, rotary: Any, rows_L: Any) -> torch.Tensor:
        tokens = h_BTD.shape[0] * h_BTD.shape[1]
        return compute(h_BTD, documents, rotary, rows_L if rows_L is None else (rows_L + 1) % tokens)

    layer._compute = shift  # type: ignore[method-assign]


@dataclass(frozen=True)
class _Window:
    sliding_window: int


def _projections(layer: FastLayer) -> tuple[Projection, ...]:
    return layer.qkv, layer.out, layer.wide_mlp.inward.projection, layer.wide_mlp.down


def _without_scale(projection: Projection) -> Callable[[], None]:
    @torch.no_grad()
    def refresh() -> None:
        for part in projection._adapted:
            down, up = part.adapter
            projection._down_RI[part.ranks].copy_(down)
            projection._up_OR[part.outputs, part.ranks].copy_(up)

    return refresh


def _after(holder: Any, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    before = getattr(holder, name)
    setattr(holder, name, lambda *values: change(before(*values)))
