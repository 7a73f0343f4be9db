"""How many parameters train, what they weigh and what a token costs: arithmetic on sizes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunewright.config.schema import AdapterConfig
from tunewright.models.arch import Arch
from tunewright.models.lora import ALL_LINEAR, is_named, match_targets

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
"""Bytes of one number by its format."""

QUANTIZED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "4bit": 0.5 + 4 / 64}
"""Bytes of one weight of a quantised linear layer. nf4: 4 bits, an 8-bit scale for 64 of them, and an fp32
scale for 256 of those. 4bit: 4 bits, and a 16-bit scale and offset for 64 of them."""

_HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class Trained:
    """What trains, in parameters. lora: those of the adapters; other: those of modules trained in full; full:
    the whole model does. adapted: names of the modules with an adapter; rank: that of each. sizes: of each
    array."""

    lora: int
    other: int
    full: bool
    adapted: frozenset[str]
    rank: int
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.lora + self.other


def count_trained(arch: Arch, adapter: AdapterConfig) -> Trained:
    """What `adapter` trains of a model. Biases, which are few, do not count. Raises ConfigError for a target
    that is not there."""
    if adapter.kind == "none":
        sizes = _all_sizes(arch)
        return Trained(0, arch.parameters, full=True, adapted=frozenset(), rank=0, sizes=sizes)
    shapes = dict(zip(arch.linear_modules, arch.linear_shapes, strict=True))
    head = None if adapter.targets == ALL_LINEAR else _HEAD
    names = [*shapes, *([head] if head else [])]
    shapes[_HEAD] = (arch.vocab_size, arch.hidden_size)
    saved = [name for name in shapes if any(is_named(name, want) for want in adapter.modules_to_save)]
    embeddings = sum("embed" in want for want in adapter.modules_to_save)
    adapted = [name for name in match_targets(names, adapter.targets) if name not in saved]
    pairs = [adapter.rank * width for name in adapted for width in shapes[name]]
    whole = [math.prod(shapes[name]) for name in saved] + embeddings * [arch.vocab_size * arch.hidden_size]
    return Trained(
        lora=sum(pairs),
        other=sum(whole),
        full=False,
        adapted=frozenset(adapted),
        rank=adapter.rank,
        sizes=(*pairs, *whole),
    )


def _all_sizes(arch: Arch) -> tuple[int, ...]:
    """Of all arrays. What is neither matrix nor embedding is small: norms, of the model's width each."""
    matrices = [math.prod(shape) for shape in arch.linear_shapes]
    tables = arch.embedding_parameters // (arch.vocab_size * arch.hidden_size)
    outer = tables * [arch.vocab_size * arch.hidden_size]
    rest = arch.parameters - sum(matrices) - sum(outer)
    norms, odd = divmod(rest, arch.hidden_size)
    return (*matrices, *outer, *(norms * [arch.hidden_size]), *([odd] if odd else []))


def base_bytes(arch: Arch, dtype: str, quantization: str = "none") -> float:
    """Bytes of the base model's weights. Embeddings, head, norms and biases are never quantised."""
    if quantization == "none":
        return arch.parameters * BYTES[dtype]
    linear = linear_parameters(arch)
    return linear * QUANTIZED_BYTES[quantization] + (arch.parameters - linear) * BYTES[dtype]


def linear_parameters(arch: Arch) -> int:
    """Weights of the linear layers inside the blocks."""
    return sum(rows * columns for rows, columns in arch.linear_shapes)


def flops_per_token(
    arch: Arch, trained: Trained, *, document_length: int, checkpointed: int = 0, label_share: float = 1.0
) -> float:
    """Floating-point operations one token costs in training, forward and backward.

    A matrix costs 2 operations a weight forward, 2 for the gradient of its input and, where it trains, 2 for
    its own. Causal attention over a document of S tokens costs 2 · S · width a layer forward and twice that
    backward. The head runs on label rows and once more in the backward pass. An embedding costs nothing.
    checkpointed: layers that run forward once more.
    """
    linear, head = linear_parameters(arch), arch.vocab_size * arch.hidden_size * label_share
    attention = _attention_flops(arch, document_length)
    own = 2.0 if trained.full else 0.0
    recomputed = (2 * (linear + trained.lora) + attention) * checkpointed / arch.layers
    return (4 + own) * linear + (6 + own) * head + 6 * trained.lora + 3 * attention + recomputed


def forward_flops_per_token(arch: Arch, trained: Trained, *, document_length: int) -> float:
    """Floating-point operations one token costs in evaluation: forward alone, the head on every row."""
    matrices = linear_parameters(arch) + arch.vocab_size * arch.hidden_size + trained.lora
    return 2 * matrices + _attention_flops(arch, document_length)


def _attention_flops(arch: Arch, document_length: int) -> float:
    width = arch.heads * arch.head_size
    return sum(2 * width * min(document_length, window or document_length) for window in arch.windows)
