"""The forward pass over rows of one document each: masks per layer, embedding scale, final norm, logits.

mlx-lm's layers are called one by one, because its models build one mask for all of them and leave out the
windows of several families. A document is a row of its own, so no token sees another document, positions
start at 0, and padding behind a document needs no mask: causal attention never looks at it.
"""

# K documents, N tokens of a padded document, S any number of positions, D model width, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from tunewright.engines.mlx.load import BaseModel, hidden_layers

Mask = mx.array | str


def hidden_states(base: BaseModel, tokens_KN: mx.array, *, checkpointed_layers: int = 0) -> mx.array:
    """[K, N, D] hidden states after the final norm.

    checkpointed_layers: the first so many forget what they computed and do it again in the backward pass.
    """
    inner: Any = base.module["model"]
    hidden_KND = embed(base, tokens_KN)
    masks = layer_masks(base.windows, tokens_KN.shape[1], boolean=base.family.boolean_mask)
    for number, (layer, mask) in enumerate(zip(hidden_layers(base), masks, strict=True)):
        recomputed = number < checkpointed_layers
        hidden_KND = _recomputed(layer, mask)(hidden_KND) if recomputed else layer(hidden_KND, mask)
    return inner.norm(hidden_KND)


def embed(base: BaseModel, tokens_KN: mx.array) -> mx.array:
    """[K, N, D] embeddings, scaled in the families that do so."""
    inner: Any = base.module["model"]
    hidden_KND = inner.embed_tokens(tokens_KN)
    return hidden_KND if base.embedding_scale == 1 else hidden_KND * base.embedding_scale


def head_logits(base: BaseModel, hidden_SD: mx.array) -> mx.array:
    """[S, V] logits, with the soft cap of the families that have one."""
    module: Any = base.module
    logits_SV = module.model.embed_tokens.as_linear(hidden_SD) if base.tied else module.lm_head(hidden_SD)
    cap = base.arch.final_soft_cap
    return logits_SV if cap is None else cap * mx.tanh(logits_SV / cap)


def layer_masks(windows: Sequence[int | None], width: int, *, boolean: bool) -> list[Mask]:
    """One mask a layer, the same object for the same window."""
    reach = [window if window is not None and window < width else None for window in windows]
    made: dict[int | None, Mask] = {
        window: _band(width, window) if boolean or window is not None else "causal" for window in set(reach)
    }
    return [made[window] for window in reach]


def _band(width: int, window: int | None) -> mx.array:
    """bool [N, N]: may position i see position j? A window of w is the token itself and the w - 1 before."""
    positions_N = mx.arange(width)
    behind_NN = positions_N[:, None] - positions_N[None]
    seen_NN = behind_NN >= 0
    return seen_NN if window is None else seen_NN & (behind_NN < window)


def _recomputed(layer: Any, mask: Mask) -> Callable[[mx.array], mx.array]:
    """The layer as a function that keeps nothing but its input. What trains must come in as an argument:
    gradients do not reach what such a function only closes over."""

    def run(trained: Any, hidden_KND: mx.array) -> mx.array:
        layer.update(trained)
        return layer(hidden_KND, mask)

    checkpointed = mx.checkpoint(run)
    return lambda hidden_KND: checkpointed(layer.trainable_parameters(), hidden_KND)
