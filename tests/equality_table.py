"""Every equality that must hold, with its tolerance and the reason for it.

`make numerics` prints what this table measures; tests/numerics asserts the same rows. To add one: its measure
in engine_equalities.py or reference_equalities.py, a row here, and a row in docs/concepts/numerics.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import engine_equalities as engine
import reference_equalities as reference
from engine_equalities import Measure
from trl_equality import trl

ORDER = "the same sums in another order; fp32 rounds each by 6e-8"
BITWISE = "the same operations on the same numbers"
LIBRARY = "the same formulas by another library; fp32 rounds each by 6e-8"
HALF = "bf16 keeps 8 bits (0.4 % a product), averaged over many"


@dataclass(frozen=True, slots=True)
class Equality:
    """A row of the table.

    name: what equals what. measure: largest relative difference, of a model folder and a scratch folder.
    tolerance: the most it may be. reason: why not 0, or why 0. at_least: a difference below this means that
    both sides computed the same thing, and nothing was compared. sampled: two families are enough for
    `make test`, because it takes seconds or knows little of the architecture.
    """

    name: str
    measure: Measure
    tolerance: float
    reason: str
    at_least: float = 0.0
    sampled: bool = False

    def holds(self, difference: float) -> bool:
        """Whether a measured difference is within bounds; not-a-number never is."""
        return self.at_least <= difference <= self.tolerance


EQUALITIES = (
    Equality("accumulated = one batch", engine.accumulated, 1e-5, ORDER, sampled=True),
    Equality("packed = alone", engine.packed, 1e-5, ORDER),
    Equality("padded = alone", engine.padded, 1e-5, ORDER),
    Equality("per-document attention = dense mask", engine.dense_mask, 1e-5, ORDER),
    Equality("resumed = undisturbed", engine.resumed, 0.0, BITWISE, sampled=True),
    Equality("activations recomputed = kept", engine.activation_checkpointing, 1e-6, ORDER, sampled=True),
    Equality(
        "LoRA at start = base", engine.lora_start, 0.0, "a zero times anything adds nothing", sampled=True
    ),
    Equality("merged = adapter", reference.merged, 1e-5, "W + s·BA is rounded once more than Wx + s·B(Ax)"),
    Equality("bf16 compute ≈ fp32", engine.bf16_compute, 2e-2, HALF, at_least=1e-6),
    Equality("bf16 weights ≈ fp32", engine.bf16_weights, 2e-2, HALF, at_least=1e-6),
    Equality("fast layers = plain", engine.fast_layers, 1e-5, ORDER),
    Equality("fast layers: packed = padded", engine.fast_packed, 1e-5, ORDER, sampled=True),
    Equality("fast layers: resumed = undisturbed", engine.fast_resumed, 0.0, BITWISE, sampled=True),
    Equality("fast layers in bf16 ≈ fp32", engine.fast_bf16, 2e-2, HALF, at_least=1e-6),
    Equality("loss = Hugging Face's", reference.hugging_face, 1e-5, LIBRARY),
    Equality("adapter in PEFT = here", reference.peft_reads_ours, 1e-6, LIBRARY),
    Equality("PEFT's adapter here = in PEFT", reference.we_read_pefts, 1e-6, LIBRARY),
    Equality("20 steps = TRL's", trl, 1e-5, LIBRARY, sampled=True),
)
