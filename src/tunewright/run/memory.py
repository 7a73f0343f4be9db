"""The most memory a run takes, from sizes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunewright.data.collate import WIDTH_STEP
from tunewright.models.activations import (
    Pass,
    backward_bytes,
    inputs_bytes,
    kept_bytes,
    layer_bytes,
    logits_bytes,
)
from tunewright.models.arch import Arch
from tunewright.models.footprint import BYTES, Trained, base_bytes
from tunewright.models.moments import count_moments

_MASTER = 4
# Buffers and code that a library touches when it first computes, beside arrays that a size tells.
_RUNTIME_BYTES = {"cpu": 45 * 2**20, "cuda": 700 * 2**20, "mps": 300 * 2**20}

# oneDNN makes code for each shape of a 16-bit matrix product on a CPU and keeps it, about 0.4 MiB each: once,
# and for each width of a micro-batch, until its cache is full.
_RUNTIME_16_BIT = 20 * 2**20
_WIDTH_16_BIT = 15 * 2**20
_WIDTHS_16_BIT = 550 * 2**20
# Fast layers are proved on a small batch, plain and fast: shapes of its own, both ways.
_PROOF_16_BIT = 50 * 2**20


@dataclass(frozen=True, slots=True)
class Facts:
    """All that memory depends on but the split. kind: cpu, cuda or mps. dtype: of frozen weights; precision:
    of computing. dropout: adapters have one. batch_size: rows of seq_len tokens in a step. row_tokens: the
    most tokens of a row, step_tokens: of a packed step, held_out_tokens: of held-out examples packed
    together; None for not known. label_share: label rows over tokens; 1 is the most there can be. eager:
    attention keeps its scores. fast_document: the longest document where fast layers run, else 0;
    capped_document: where attention has a soft cap, else 0."""

    arch: Arch
    trained: Trained
    kind: str
    dtype: str
    precision: str
    quantization: str
    dropout: bool
    seq_len: int
    batch_size: int
    row_tokens: int | None = None
    step_tokens: int | None = None
    held_out_tokens: int | None = None
    label_share: float = 1.0
    eager: bool = False
    fast_document: int = 0
    capped_document: int = 0
    optimizer: str = "adamw"

    @property
    def shares_memory(self) -> bool:
        """Whether host and device are one memory."""
        return self.kind != "cuda"


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of the device at the moment when most is held, part by part. host: what lies beside it, where the
    host has memory of its own; paged moments among it are on the device while that has room."""

    parts: Mapping[str, int]
    host: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def peak(self) -> int:
        return sum(self.parts.values())


def split_need(facts: Facts, rows: int, checkpointed: int) -> MemoryNeed:
    """The memory of a run whose micro-batches hold `rows` rows of seq_len tokens at most."""
    several = 2 if rows < facts.batch_size else 1
    tokens = rows * min(facts.seq_len, facts.row_tokens or facts.seq_len)
    held_out = tokens if facts.held_out_tokens is None else min(tokens, facts.held_out_tokens)
    if facts.step_tokens is not None and facts.step_tokens <= tokens:
        tokens, several = facts.step_tokens, 1
    widths = -(-max(tokens, held_out) // WIDTH_STEP)
    return need_memory(facts, tokens, checkpointed, micro_batches=several, held_out=held_out, widths=widths)


def fits(need: MemoryNeed, memory_bytes: int) -> bool:
    """Whether a device of so much usable memory holds it; one that tells no size may."""
    return memory_bytes <= 0 or need.peak <= memory_bytes


def need_memory(
    facts: Facts,
    tokens: int,
    checkpointed: int,
    *,
    micro_batches: int = 2,
    held_out: int = 0,
    widths: int = 1,
) -> MemoryNeed:
    """The most memory of a run whose micro-batches hold `tokens` tokens, above what the process had before.

    checkpointed: the first so many layers recompute their activations. micro_batches: of one step; with
    several, gradients are there while activations are. held_out: tokens of a micro-batch of an evaluation.
    widths: different ones of all micro-batches.
    """
    one = _pass(facts, tokens, checkpointed)
    arch, trained = facts.arch, facts.trained
    gradients = trained.count * _MASTER
    earlier = gradients if micro_batches > 1 else 0
    # The gradient of the head comes first, and a tied one is added to that of the embedding at the end.
    head = arch.vocab_size * arch.hidden_size * _MASTER if trained.full else 0
    casts = _autocast_bytes(facts) + _read_back_bytes(facts)
    kept, backward = kept_bytes(arch, trained, one), backward_bytes(arch, one)
    moments: dict[str, tuple[float, float, float, float]] = {
        "loss": (earlier + head, kept, logits_bytes(arch, trained, one), casts),
        # Each chunk of the loss adds its gradient of the head to the sum so far, in a third array.
        "head": (earlier + 3 * head, kept, 0, casts),
        "backward": (max(earlier, head), kept, 0, casts + backward),
        "end": (gradients + (head if arch.tied or earlier else 0), 0, 0, casts),
    }
    if checkpointed:
        # The last of them comes first; the layers behind it have let go of what they kept.
        again = tokens * layer_bytes(arch, trained, one)
        share = checkpointed / arch.layers
        done = max(earlier, head, (1 - share) * gradients)
        moments["recompute"] = (done, inputs_bytes(arch, one), 0, casts + backward + again)
    moments |= _evaluation(facts, held_out)
    gradients, kept, logits, work = max(moments.values(), key=sum)
    optimizer = count_moments(trained.sizes, facts.optimizer)
    copy = trained.count * _MASTER + optimizer.held + optimizer.paged
    return MemoryNeed(
        {
            "weights": _whole(_weights(facts)),
            "adapters": 0 if trained.full else trained.count * _MASTER,
            "optimizer": optimizer.held,
            "gradients": _whole(gradients),
            "activations": _whole(kept),
            "logits": _whole(logits),
            "workspace": _whole(work + _runtime_bytes(facts, widths)),
            "checkpoint copy": copy if facts.shares_memory else 0,
        },
        {} if facts.shares_memory else {"paged optimizer": optimizer.paged, "checkpoint copy": copy},
    )


def _evaluation(facts: Facts, tokens: int) -> dict[str, tuple[float, float, float, float]]:
    """The moments of an evaluation, which keeps nothing: inside a block, whose arrays count as if it kept all
    of them, and at the loss."""
    one = _pass(facts, tokens, 0)
    stream = tokens * facts.arch.hidden_size * BYTES[facts.precision]
    inside = tokens * layer_bytes(facts.arch, facts.trained, one)
    casts = _autocast_bytes(facts) + _read_back_bytes(facts)
    return {
        "held-out block": (0, stream, 0, casts + inside),
        "held-out loss": (0, stream, logits_bytes(facts.arch, facts.trained, one), casts),
    }


def _pass(facts: Facts, tokens: int, checkpointed: int) -> Pass:
    return Pass(
        tokens=tokens,
        labels=round(tokens * facts.label_share),
        precision=facts.precision,
        dropout=facts.dropout,
        kind=facts.kind,
        checkpointed=checkpointed,
        eager_row=tokens if facts.eager else 0,
        fast_document=facts.fast_document,
        capped_document=facts.capped_document,
    )


def _weights(facts: Facts) -> float:
    return base_bytes(facts.arch, "fp32" if facts.trained.full else facts.dtype, facts.quantization)


def _autocast_bytes(facts: Facts) -> float:
    """16-bit copies of the fp32 weights that train, which autocast keeps for a forward and backward pass."""
    if facts.precision == "fp32":
        return 0.0
    return facts.trained.count * BYTES[facts.precision]


def _read_back_bytes(facts: Facts) -> float:
    """nf4 weights in the compute type. The fast path holds gate and up side by side, and the one that is read
    back before it is copied there; else one layer at a time, with room for as much again. MLX computes with
    packed weights."""
    if facts.quantization != "nf4":
        return 0.0
    matrices = 3 if facts.fast_document else 2
    return matrices * max(math.prod(shape) for shape in facts.arch.linear_shapes) * BYTES[facts.precision]


def _runtime_bytes(facts: Facts, widths: int) -> int:
    if facts.kind != "cpu" or facts.precision == "fp32":
        return _RUNTIME_BYTES[facts.kind]
    proof = _PROOF_16_BIT if facts.fast_document else 0
    code = min(proof + widths * _WIDTH_16_BIT, _WIDTHS_16_BIT)
    return _RUNTIME_BYTES[facts.kind] + _RUNTIME_16_BIT + code


def _whole(size: float) -> int:
    return round(size)
