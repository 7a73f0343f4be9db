"""Inputs and results of each layer of a model in one pass over a batch, and those of one layer alone."""

# B rows, T tokens of a row, S = B·T, L label rows, D model width

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tunewright.engines.torch.loss import DeviceBatch, batch_loss

Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Results:
    """Of one layer: output, gradient of its input if asked for, gradients by name of what trains."""

    output: torch.Tensor
    towards: torch.Tensor | None
    gradients: Gradients


@dataclass(frozen=True, slots=True)
class LayerPass:
    """One layer in a pass through the whole model. from_above: gradient of its output; None where nothing
    trains in it or below."""

    inputs: torch.Tensor
    named: Mapping[str, Any]
    from_above: torch.Tensor | None
    results: Results

    @property
    def goes_on(self) -> bool:
        """Whether the backward pass goes on to what lies below."""
        return self.results.towards is not None


@dataclass(frozen=True, slots=True)
class LabelRows:
    """The rows that the last layer is asked for, as in DeviceBatch."""

    places_L: torch.Tensor
    weights_L: torch.Tensor

    def pick(self, values_BTD: torch.Tensor) -> torch.Tensor:
        """[1, L, D]."""
        return values_BTD.flatten(0, 1)[self.places_L][None]

    def pick_gradient(self, values_BTD: torch.Tensor) -> torch.Tensor:
        """The same, without what would be counted twice: a row that only fills up stands for another one."""
        return self.pick(values_BTD) * (self.weights_L > 0)[:, None]


@dataclass(frozen=True, slots=True)
class ModelPass:
    """layers: filled when they were asked for. rows_LD: what the output head reads, [L, D]."""

    loss: float
    rows_LD: torch.Tensor
    layers: list[LayerPass]
    gradients: frozenset[str]


def pass_through(
    model: PreTrainedModel, batch: DeviceBatch, *, by_rows: bool, layers: list[nn.Module]
) -> ModelPass:
    """Forward and backward as in a step, watching `layers`. Leaves no gradients at the parameters, not those
    of half a backward pass either: the first step would add to them."""
    seen: dict[nn.Module, tuple[torch.Tensor, dict[str, Any], torch.Tensor]] = {}
    final: list[torch.Tensor] = []

    def watch(layer: nn.Module, inputs: Any, named: dict[str, Any], output: torch.Tensor) -> None:
        hidden, *_ = inputs or (named["hidden_states"],)
        for tensor in (hidden, output):
            if tensor.requires_grad:
                tensor.retain_grad()
        seen[layer] = (hidden, {k: v for k, v in named.items() if k != "hidden_states"}, output)

    hooks = [layer.register_forward_hook(watch, with_kwargs=True) for layer in layers]
    hooks.append(
        model.base_model.register_forward_hook(
            lambda _, __, out: final.append(out.last_hidden_state.detach())
        )
    )
    try:
        with _without_gradients(model):
            sums = batch_loss(model, batch, by_rows=by_rows)
            sums.loss.backward()
            named = frozenset(name for name, p in model.named_parameters() if p.grad is not None)
            passes = [_read_layer(layer, *seen[layer]) for layer in layers]
    finally:
        for hook in hooks:
            hook.remove()
    return ModelPass(sums.loss.item(), _label_rows(final[0], batch), passes, named)


def pass_layer(
    layer: nn.Module, recorded: LayerPass, inputs: torch.Tensor, named: Mapping[str, Any],
    rows: LabelRows | None,
) -> Results:  # fmt: skip
    """`layer` alone on `inputs`, with the gradient from above that was recorded. rows: it is the last one and
    gives those alone, or gives all and they are picked here."""
    hidden = inputs.detach().requires_grad_(recorded.goes_on)
    above = recorded.from_above
    with _without_gradients(layer):
        output = layer(hidden, **named)
        if rows is not None:
            output = rows.pick(output) if output.shape[:2] == hidden.shape[:2] else output
            above = None if above is None else rows.pick_gradient(above)
        if above is not None:
            output.backward(above.to(output.dtype))
        return Results(output.detach(), hidden.grad, _gradients(layer))


def _label_rows(hidden: torch.Tensor, batch: DeviceBatch) -> torch.Tensor:
    everything = hidden.shape[:2] == batch.tokens_BT.shape
    return hidden.flatten(0, 1)[batch.rows_L] if everything else hidden[0]


def _read_layer(
    layer: nn.Module, hidden: torch.Tensor, named: dict[str, Any], output: torch.Tensor
) -> LayerPass:
    results = Results(output.detach(), hidden.grad, _gradients(layer))
    return LayerPass(hidden.detach(), named, output.grad, results)


def _gradients(layer: nn.Module) -> Gradients:
    return {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.grad = None
