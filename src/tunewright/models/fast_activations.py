"""What fast layers keep for the backward pass: inputs of norms and of the gate, and on a CPU probabilities of
attention. Counted from the arrays that engines/torch/fast saves; masks of dropout are drawn again.
"""

# D model width, Q width of all query heads, K width of all key heads, I width inside the MLP, H heads

from __future__ import annotations

from tunewright.models.arch import Arch
from tunewright.models.footprint import BYTES, Trained

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma"})
"""Model types that have fast layers."""

_NORMED_HEADS = frozenset({"qwen3"})
LONGEST_KEPT = 1024
"""Tokens of a document up to which the probabilities of attention are kept."""
QUERY_BLOCK = 256
"""Queries of a block see the keys up to its end only: nearly half of a long document's products are saved."""
_FP32 = 4


def fast_layer_bytes(arch: Arch, trained: Trained, precision: str, document: int) -> float:
    """Bytes a token that one block keeps. document: tokens of the longest one, whose probabilities are kept;
    0 for a flash kernel, which keeps one fp32 number a head."""
    size = BYTES[precision]
    wide, query, key = arch.hidden_size, arch.heads * arch.head_size, arch.kv_heads * arch.head_size
    heads = 2 * query + 2 * key
    if arch.model_type in _NORMED_HEADS:
        heads += query + 2 * key
    ranks = trained.rank * len(trained.adapted) / arch.layers
    scores = arch.heads * (seen_keys(document) if document else _FP32 / size)
    return (2 * wide + heads + 2 * arch.intermediate_size + ranks + scores) * size


def fast_backward_bytes(arch: Arch, precision: str, document: int) -> float:
    """Bytes a token that the backward pass through one block needs beside what it kept: gradients of gate and
    up in pieces and together and the input of the last matrix, or those of a block of attention."""
    size = BYTES[precision]
    mlp = (7 * arch.intermediate_size + 2 * arch.hidden_size) * size
    length = min(document, LONGEST_KEPT)
    attention = 2 * arch.heads * min(length, QUERY_BLOCK) * size
    return max(mlp, attention)


def seen_keys(document: int) -> float:
    """Mean number of probabilities that are kept for a token and head, all documents of this length."""
    length = min(document, LONGEST_KEPT)
    ends = [min(start + QUERY_BLOCK, length) for start in range(0, length, QUERY_BLOCK)]
    return (
        sum((end - start) * end for start, end in zip(range(0, length, QUERY_BLOCK), ends, strict=True))
        / length
    )
