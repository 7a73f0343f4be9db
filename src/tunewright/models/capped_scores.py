"""Scores that attention under a soft cap keeps for the backward pass: no fused kernel makes them, so they are
arrays. Counted by the rules of engines/torch/attention.py.
"""

from __future__ import annotations

from tunewright.models.arch import Arch

# Queries of a block of a layer without a window that counts; they see the keys up to the block's end.
_BLOCK = 1024
# The tanh and the softmax: fp32 both, or 16 bits, fp32 and its copy in 16 bits.
_SCORE_BYTES = 8


def capped_bytes(arch: Arch, document: int) -> float:
    """Bytes a token that one block keeps, the mean of all blocks. document: tokens of the longest one."""
    seen = sum(_seen_keys(document, window) for window in arch.windows) / arch.layers
    return arch.heads * seen * _SCORE_BYTES


def _seen_keys(document: int, window: int | None) -> float:
    """Mean number of keys whose scores are made for a query."""
    banded = window is not None and document > window
    block = window if banded and window is not None else _BLOCK
    scores = 0
    for start in range(0, document, block):
        stop = min(start + block, document)
        first = max(0, start - block + 1) if banded else 0
        scores += (stop - start) * (stop - first)
    return scores / max(1, document)
