"""Proof, on the real model, that rows of documents compute what the model does, windows included.

The layers are driven from here and not by mlx-lm's model, so a factor or a norm that a family has and this
engine lacks would go unseen. Windows are proven by what they let through: mlx-lm itself leaves them out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from tunewright.engines.mlx.arrays import to_number
from tunewright.engines.mlx.attention import head_logits, hidden_states, layer_masks
from tunewright.engines.mlx.load import BaseModel, hidden_layers
from tunewright.errors import EngineError

# Windows are narrowed to this for the check: the mechanism is the same, and 7B models have windows of 4096.
_WINDOW = 16
_LENGTHS = (5, 2 * _WINDOW + 9, 1, 7)
# Largest difference of a document's logits, in the L2 norm. 16-bit formats round elsewhere for other shapes.
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


def check_model(base: BaseModel, precision: str) -> None:
    """Raise EngineError unless padded rows give the logits of mlx-lm's own forward of each document alone,
    and every layer sees exactly as far as its window. Leaves the model as it was."""
    fault = _compare_logits(base, _TOLERANCE[precision]) or _compare_windows(base)
    if fault is not None:
        raise EngineError(
            f"documents as rows do not fit this model: {fault}",
            where="model.name",
            got=base.arch.model_type,
            hint="set engine: torch",
            code="engine.attention-mismatch",
        )


def _compare_logits(base: BaseModel, tolerance: float) -> str | None:
    draw = np.random.Generator(np.random.Philox(0))
    documents = [draw.integers(0, base.arch.vocab_size, size=length) for length in _LENGTHS]
    tokens_KN = np.zeros((len(documents), max(_LENGTHS) + 3), np.int32)
    for k, tokens in enumerate(documents):
        tokens_KN[k, : len(tokens)] = tokens
    changed_KN = tokens_KN.copy()
    changed_KN[0] = (changed_KN[0] + 1) % base.arch.vocab_size
    packed, moved = _row_logits(base, tokens_KN), _row_logits(base, changed_KN)
    module: Any = base.module
    leak = size = 0.0
    for k, tokens in enumerate(documents):
        own = np.array(module(mx.array(tokens[None])).astype(mx.float32))[0]
        size = max(size, float(np.abs(own).max()))
        wrong = float(np.linalg.norm(own - packed[k, : len(tokens)]) / np.linalg.norm(own))
        if not wrong <= tolerance:
            return f"logits differ by {wrong:.1e} of their norm from those of single documents"
        if k:
            leak = max(leak, float(np.abs(moved[k] - packed[k]).max()))
    if not leak <= tolerance * size / 10:
        return f"one document moves another's logits by {leak / size:.1e} of the largest"
    return None


def _row_logits(base: BaseModel, tokens_KN: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits with the windows and the embedding scale that mlx-lm's own forward has."""
    scale = base.embedding_scale
    if base.family.rounds_scale:
        scale = to_number(mx.array(scale, mx.bfloat16))
    windows = base.windows if base.family.has_windows else (None,) * base.arch.layers
    as_theirs = replace(base, windows=windows, embedding_scale=scale)
    hidden = hidden_states(as_theirs, mx.array(tokens_KN))
    return np.array(head_logits(base, hidden).astype(mx.float32))


def _compare_windows(base: BaseModel) -> str | None:
    """Change the first position and see which later ones a layer moves: those below its window, no other."""
    width = 2 * _WINDOW
    draw = np.random.Generator(np.random.Philox(1))
    dtype = hidden_states(base, mx.array([[0]])).dtype
    before = mx.array(draw.normal(size=(1, width, base.arch.hidden_size)), dtype)
    after = mx.array(before)
    after[:, 0] = -after[:, 0]
    windows = [None if window is None else min(window, _WINDOW) for window in base.windows]
    masks = layer_masks(windows, width, boolean=base.family.boolean_mask)
    for number, layer in enumerate(hidden_layers(base)):
        call: Any = layer
        difference = mx.abs(call(before, masks[number]) - call(after, masks[number])).max(axis=(0, 2))
        reach = to_number((difference > 0).sum())
        expected = windows[number] or width
        if reach != expected or not to_number((difference[:expected] > 0).all()):
            return f"layer {number} sees {reach:.0f} tokens, expected {expected}"
    return None
