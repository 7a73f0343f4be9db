"""The most memory a run takes, from sizes alone, and the split of a batch that fits into a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tunewright.models.activations import Pass, backward_bytes, kept_bytes, logits_bytes
from tunewright.models.arch import Arch
from tunewright.models.footprint import BYTES, Trained, base_bytes

# AdamW keeps two fp32 moments of what trains.
_MOMENTS = 2 * 4
_MASTER = 4
# Buffers and code that a library touches when it first computes, beside arrays that a size tells.
_RUNTIME_BYTES = {"cpu": 45 * 2**20, "cuda": 700 * 2**20, "mps": 300 * 2**20}


@dataclass(frozen=True, slots=True)
class Facts:
    """All that memory depends on but the split. kind: cpu, cuda or mps. dtype: of frozen weights; precision:
    of computing. dropout: adapters have one. label_share: label rows over tokens; 1 is the most there can be.
    eager: attention keeps its scores."""

    arch: Arch
    trained: Trained
    kind: str
    dtype: str
    precision: str
    quantization: str
    dropout: bool
    seq_len: int
    batch_size: int
    label_share: float = 1.0
    eager: bool = False

    @property
    def shares_memory(self) -> bool:
        """Whether host and device are one memory."""
        return self.kind != "cuda"


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes at the moment when most is held, part by part."""

    parts: Mapping[str, int]

    @property
    def peak(self) -> int:
        return sum(self.parts.values())


def need_memory(facts: Facts, tokens: int, checkpointed: bool, *, micro_batches: int = 2) -> MemoryNeed:
    """The most memory of a run whose micro-batches hold `tokens` tokens, above what the process had before.

    micro_batches: of one step; with several, gradients are there while activations are.
    """
    one = _pass(facts, tokens, checkpointed)
    arch, trained = facts.arch, facts.trained
    gradients = trained.count * _MASTER
    earlier = gradients if micro_batches > 1 else 0
    # The gradient of the head comes first, and a tied one is added to that of the embedding at the end.
    head = arch.vocab_size * arch.hidden_size * _MASTER if trained.full else 0
    casts = _autocast_bytes(facts)
    kept = kept_bytes(arch, trained, one)
    moments = {
        "loss": (earlier + head, kept, logits_bytes(arch, one), casts),
        # Each chunk of the loss adds its gradient of the head to the sum so far, in a third array.
        "head": (earlier + 3 * head, kept, 0, casts),
        "backward": (max(earlier, head), kept, 0, casts + backward_bytes(arch, trained, one)),
        "end": (gradients + (head if arch.tied or earlier else 0), 0, 0, casts),
    }
    gradients, kept, logits, work = max(moments.values(), key=sum)
    return MemoryNeed(
        {
            "weights": _whole(_weights(facts)),
            "adapters": 0 if trained.full else trained.count * _MASTER,
            "optimizer": trained.count * _MOMENTS,
            "gradients": _whole(gradients),
            "activations": _whole(kept),
            "logits": _whole(logits),
            "workspace": _whole(work + _RUNTIME_BYTES[facts.kind]),
            "checkpoint copy": trained.count * (_MASTER + _MOMENTS) if facts.shares_memory else 0,
        }
    )


def choose_split(
    facts: Facts,
    memory_bytes: int,
    *,
    micro_batch_size: int | Literal["auto"] = "auto",
    activation_checkpointing: bool | Literal["auto"] = "auto",
    most_tokens: int = 8192,
) -> tuple[int, bool]:
    """(micro_batch_size, activation_checkpointing) for `memory_bytes`; what is not `auto` stays as it is.

    The largest micro-batch up to `most_tokens` tokens and the batch that fits without checkpointing, else the
    largest with it. The smallest split when nothing fits: need_memory says by how much it does not.
    """
    largest = max(1, min(facts.batch_size, most_tokens // facts.seq_len))
    choices = (
        range(largest, 0, -1) if micro_batch_size == "auto" else (min(micro_batch_size, facts.batch_size),)
    )
    switches = (False, True) if activation_checkpointing == "auto" else (activation_checkpointing,)
    for checkpointed in switches:
        for rows in choices:
            if split_need(facts, rows, checkpointed).peak <= memory_bytes:
                return rows, checkpointed
    return choices[-1], switches[-1]


def split_need(facts: Facts, rows: int, checkpointed: bool) -> MemoryNeed:
    """The memory of a run whose micro-batches hold `rows` rows of seq_len tokens."""
    several = 2 if rows < facts.batch_size else 1
    return need_memory(facts, rows * facts.seq_len, checkpointed, micro_batches=several)


def _pass(facts: Facts, tokens: int, checkpointed: bool) -> Pass:
    return Pass(
        tokens=tokens,
        labels=round(tokens * facts.label_share),
        precision=facts.precision,
        dropout=facts.dropout,
        on_cpu=facts.kind == "cpu",
        checkpointed=checkpointed,
        eager_row=tokens if facts.eager else 0,
    )


def _weights(facts: Facts) -> float:
    return base_bytes(facts.arch, "fp32" if facts.trained.full else facts.dtype, facts.quantization)


def _autocast_bytes(facts: Facts) -> float:
    """16-bit copies of the fp32 weights that train, which autocast keeps for a forward and backward pass."""
    if facts.precision == "fp32":
        return 0.0
    return facts.trained.count * BYTES[facts.precision]


def _whole(size: float) -> int:
    return round(size)
