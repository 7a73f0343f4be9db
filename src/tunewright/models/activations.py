"""What a forward pass keeps for the backward pass, and what the loss and the backward pass need beside it.

Counted from the arrays that the engine's plain path over a Llama-like block saves: its norms, attention per
document, a gated MLP, a LoRA pair beside each adapted matrix. benchmarks/memory.py compares the sums with a
real process.
"""

# D model width, Q width of all query heads, K width of all key heads, I width inside the MLP, H heads,
# V vocabulary, L label rows, T tokens of a micro-batch

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tunewright.models.arch import Arch
from tunewright.models.capped_scores import capped_bytes
from tunewright.models.fast_activations import fast_backward_bytes, fast_layer_bytes
from tunewright.models.footprint import BYTES, Trained

# What the engines compute in pieces of, and the planner counts with. In elements.
CHUNK_ELEMENTS = 2**24
"""Logits that exist at once, 64 MiB in fp32: the loss goes through its label rows in chunks of this size."""
FROZEN_ELEMENTS = 2**23
"""The same under a head that does not train, 16 MiB in bf16."""
CUDA_ELEMENTS = 2**26
"""The same on CUDA under any head: it reads the whole weight for each chunk, and needs hundreds of rows to
have as much to compute as to read."""
BLOCK_ELEMENTS = 2**20
"""What of it a CPU takes the softmax of at once, 4 MiB in fp32, so that its passes stay in the cache."""

# The last part of the names of the matrices that read what attention or the inner MLP width made; all others
# of a block read the output of a norm.
_OUTPUTS = ("o_proj", "out_proj", "down_proj", "dense", "dense_4h_to_h", "c_proj")


@dataclass(frozen=True, slots=True)
class Pass:
    """How a micro-batch is computed. tokens: B · T. labels: label rows. dropout: adapters have one. On a CPU
    dropout keeps a mask as wide as its input, on others one byte a number. kind: of device: cpu, cuda or mps.
    checkpointed: the first so many blocks recompute theirs."""

    tokens: int
    labels: int
    precision: str
    dropout: bool
    kind: str
    checkpointed: int
    eager_row: int = 0
    """Row length under eager attention, which keeps its scores; 0 for attention per document."""
    fast_document: int = 0
    """Longest document of fast layers; 0 for plain ones."""
    capped_document: int = 0
    """Longest document where attention per document has a soft cap; else 0."""

    @property
    def on_cpu(self) -> bool:
        return self.kind == "cpu"

    def chunk_elements(self, elsewhere: int) -> int:
        """Logits of one chunk of the loss."""
        return CUDA_ELEMENTS if self.kind == "cuda" else elsewhere


def kept_bytes(arch: Arch, trained: Trained, one: Pass) -> float:
    """Bytes kept for the backward pass over the whole model, once it has begun with the last block."""
    last_norm = arch.hidden_size * 4.0 * (2 if trained.full else 1)
    blocks = (arch.layers - one.checkpointed) * layer_bytes(arch, trained, one)
    return one.tokens * (blocks + last_norm) + inputs_bytes(arch, one)


def inputs_bytes(arch: Arch, one: Pass) -> float:
    """Bytes of the inputs of the blocks that recompute, which is all that they keep."""
    return one.tokens * one.checkpointed * arch.hidden_size * BYTES[one.precision]


def layer_bytes(arch: Arch, trained: Trained, one: Pass) -> float:
    """Bytes a token that one block keeps."""
    if one.fast_document:
        # On CUDA the flash kernel keeps no probabilities.
        return fast_layer_bytes(arch, trained, one.precision, one.fast_document if one.on_cpu else 0)
    size = BYTES[one.precision]
    query, key = arch.heads * arch.head_size, arch.kv_heads * arch.head_size
    inner = arch.intermediate_size
    # Norms compute in fp32 and keep their input; one that trains keeps its output before the weight too.
    norms = arch.normed_width * 4.0 * (2 if trained.full else 1)
    attention = (2 * query + 2 * key) * size + 4 * arch.heads
    if one.eager_row:
        # The softmax is in fp32, and copied for a matrix product in 16 bits.
        softmax = 4 if one.precision == "fp32" else 4 + size
        attention += arch.heads * one.eager_row * (softmax + (size if arch.attention_soft_cap else 0))
    elif one.capped_document:
        attention += capped_bytes(arch, one.capped_document)
    gated = any("gate" in name for name in arch.linear_modules)
    mlp = (3 if gated else 1) * inner * size
    return norms + attention + mlp + _input_bytes(arch, trained, one)


def _input_bytes(arch: Arch, trained: Trained, one: Pass) -> float:
    """Bytes a token of what the matrices of one block keep of their inputs."""
    size = BYTES[one.precision]
    block = list(_first_block(arch))
    if trained.full:
        # Autocast makes a 16-bit copy for each matrix; in fp32 those that read the same array share it.
        shared = one.precision == "fp32"
        return size * sum(
            {_source(name): width for name, width in block}.values() if shared else [w for _, w in block]
        )
    adapted = [(name, width) for name, width in block if name in trained.adapted]
    inner = len(adapted) * trained.rank * size
    if one.dropout:
        mask = size if one.on_cpu else 1.0
        return inner + sum(width for _, width in adapted) * (size + mask)
    return inner + size * sum({_source(name): width for name, width in adapted}.values())


def _first_block(arch: Arch) -> Iterator[tuple[str, int]]:
    """(name, width of the input) of the matrices of the first block."""
    for name, (_, width) in zip(arch.linear_modules, arch.linear_shapes, strict=True):
        if next((part for part in name.split(".") if part.isdigit()), None) == "0":
            yield name, width


def _source(name: str) -> tuple[str, bool]:
    """What a matrix reads, as a key: matrices with the same key read the same array."""
    parent, _, last = name.rpartition(".")
    return parent, last in _OUTPUTS


def logits_bytes(arch: Arch, trained: Trained, one: Pass) -> float:
    """Bytes of the logits of one chunk at their peak.

    Under a head that trains: the log-probabilities, the gradient by the labels and that of the logits, all
    fp32, and 2 bytes for the gradient in 16 bits where the head computes so. Under a frozen one logits become
    their gradient in place, 16-bit ones through a block in fp32, and the gradient of the label rows is kept.
    """
    if _has_frozen_head(arch, trained, one):
        rows = min(one.labels, max(1, one.chunk_elements(FROZEN_ELEMENTS) // arch.vocab_size))
        logits = rows * arch.vocab_size
        block = 0 if one.precision == "fp32" else min(logits, BLOCK_ELEMENTS if one.on_cpu else logits)
        return (logits + 2 * one.labels * arch.hidden_size) * BYTES[one.precision] + block * 4
    rows = min(one.labels, max(1, one.chunk_elements(CHUNK_ELEMENTS) // arch.vocab_size))
    return rows * arch.vocab_size * (12 if one.precision == "fp32" else 14)


def _has_frozen_head(arch: Arch, trained: Trained, one: Pass) -> bool:
    return (
        trained.other == 0
        and "lm_head" not in trained.adapted
        and arch.final_soft_cap is None
        and one.precision != "fp16"
    )


def backward_bytes(arch: Arch, one: Pass) -> float:
    """Bytes that the backward pass through one block needs beside what it kept: gradients of the inner MLP
    width."""
    if one.fast_document:
        return one.tokens * fast_backward_bytes(arch, one.precision, one.fast_document)
    # Two of them at a time: the array of a third is let go of before it is made.
    return one.tokens * (2 * arch.intermediate_size + arch.hidden_size) * BYTES[one.precision]
