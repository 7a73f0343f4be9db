"""Decoder layers that keep their input alone and compute again in the backward pass.

transformers' own switch is all or nothing and belongs to its layer classes. Here a layer's call is wrapped,
whatever it computes with, so any number of layers can be chosen and a replaced layer is as good as another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tunewright.errors import EngineError


def checkpoint_layers(model: PreTrainedModel, count: int) -> None:
    """Let the first `count` decoder layers recompute their activations. The last thing to do to a model: what
    replaces a layer afterwards replaces this too. Dropout is drawn the same again.

    The first layers, because the backward pass comes to them last: by then the activations that the others
    kept are gone, and what is recomputed takes their place.
    """
    if count == 0:
        return
    for layer in decoder_layers(model)[:count]:
        layer.forward = _recomputed(layer.forward)


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers in order. Raises EngineError for a model without a list of them."""
    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return list(module)
    raise EngineError(
        f"{type(model).__name__} has no list of decoder layers",
        where="train.activation_checkpointing",
        hint="set train.activation_checkpointing: false",
        code="engine.unsupported-option",
    )


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def call(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    return call
