"""Which way a model's layers are computed: chosen from what was asked, and proved on this machine.

The proof is a small batch, forward and backward, on the real model (proof.py). A driver, a CPU type or a
release of a library that computes something else is seen before it trains anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.fast.build import why_plain
from tunewright.engines.torch.fast.compiled import compile_elementwise
from tunewright.engines.torch.fast.elementwise import EAGER
from tunewright.engines.torch.fast.proof import find_fault


@dataclass(frozen=True, slots=True)
class Chosen:
    """kernels: plain, fast or compiled. reason: why not more, where more could be."""

    kernels: str
    reason: str | None = None

    @property
    def path(self) -> str:
        """For a person: `fast`, `plain: why`."""
        return self.kernels if self.reason is None else f"{self.kernels}: {self.reason}"


def choose_kernels(model: PreTrainedModel, spec: EngineSpec, *, by_rows: bool) -> Chosen:
    """Replace the layers of `model` by fast ones where `spec.kernels` asks for it or `auto` finds it better,
    and where they are proved equal here; else leave it as it is and say why."""
    if spec.kernels == "plain":
        return Chosen("plain")
    reason = why_plain(model, spec)
    if reason is None and spec.kernels == "auto":
        reason = _why_not_by_itself(model.device, spec)
    if reason is not None:
        return Chosen("plain", reason)
    without = None
    if spec.kernels == "compiled" or (spec.kernels == "auto" and model.device.type == "cuda"):
        without = _prove_compiled(model, spec, by_rows=by_rows)
        if without is None:
            return Chosen("compiled")
    reason = find_fault(model, spec, EAGER, by_rows=by_rows)
    return Chosen("plain", reason) if reason is not None else Chosen("fast", without)


def _why_not_by_itself(device: torch.device, spec: EngineSpec) -> str | None:
    """Where the fast way is nothing to gain, or never measured, `auto` does not take it."""
    if device.type == "cpu" and spec.precision == "fp32":
        return "fp32 on a CPU"
    return None if device.type in ("cpu", "cuda") else f"{device.type} devices"


def _prove_compiled(model: PreTrainedModel, spec: EngineSpec, *, by_rows: bool) -> str | None:
    try:
        ops = compile_elementwise(model.device)
    except RuntimeError as error:
        return f"not compiled, {error}"
    reason = find_fault(model, spec, ops, by_rows=by_rows)
    return None if reason is None else f"not compiled, {reason}"
