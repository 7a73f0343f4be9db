"""Which way a model's layers are computed: chosen from what was asked, and proved on this machine.

The proof is one small batch, forward and backward, on the real model both ways. A driver, a CPU type or a
release of a library that computes something else is seen before it trains anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.fast.build import replace_layers, restore_layers, why_plain
from tunewright.engines.torch.fast.compiled import compile_elementwise
from tunewright.engines.torch.fast.elementwise import EAGER, Elementwise
from tunewright.engines.torch.load import vocabulary_size
from tunewright.engines.torch.lora import lora_layers
from tunewright.engines.torch.loss import batch_loss, to_device
from tunewright.engines.torch.precision import compute_in
from tunewright.types import Batch

# Two rows of several documents, one of a single token, two of equal length, with padding behind.
_LENGTHS = ((5, 41, 1), (7, 7, 12))
_ROW = 50
# Largest relative difference of the loss, of any adapter's gradient and of all gradients together, in the L2
# norm. In bf16 both ways round to 8 bits, at other places and through dozens of layers: 0.07 and 0.03 were
# measured on 24 layers. A forgotten term is off by more.
_LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}
_ONE_TOLERANCE = {"fp32": 1e-4, "bf16": 0.25}
_ALL_TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}


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
    reason = _prove(model, spec, EAGER, by_rows=by_rows)
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
    reason = _prove(model, spec, ops, by_rows=by_rows)
    return None if reason is None else f"not compiled, {reason}"


def _prove(model: PreTrainedModel, spec: EngineSpec, ops: Elementwise, *, by_rows: bool) -> str | None:
    """Put the fast layers in and compare; put the old ones back and return what differs."""
    batch = _draw_batch(vocabulary_size(model))
    # Dropout draws one mask here and another there; the tests know it from its formula.
    model.eval()
    with _moved_adapters(model):
        try:
            plain = _measure(model, spec, batch, by_rows=by_rows)
        except RuntimeError as error:
            return f"the plain layers failed here: {_first_line(error)}"
        before = replace_layers(model, ops)
        try:
            fast = _measure(model, spec, batch, by_rows=by_rows)
        except RuntimeError as error:
            restore_layers(model, before)
            return f"failed here: {_first_line(error)}"
    reason = _compare(plain, fast, spec.precision)
    if reason is not None:
        restore_layers(model, before)
    return reason


def _first_line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0][:100]


Measured = tuple[float, dict[str, torch.Tensor]]


def _measure(model: PreTrainedModel, spec: EngineSpec, batch: Batch, *, by_rows: bool) -> Measured:
    """Loss, and gradient by name of what trains. Leaves none at the parameters, not those of half a backward
    pass either: the first step would add to them."""
    try:
        with compute_in(spec.precision, model.device):
            sums = batch_loss(model, to_device(batch, model.device), by_rows=by_rows)
        sums.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return sums.loss.item(), gradients
    finally:
        for parameter in model.parameters():
            parameter.grad = None


def _compare(plain: Measured, fast: Measured, precision: str) -> str | None:
    wrong = abs(fast[0] - plain[0]) / max(abs(plain[0]), 1e-6)
    if not wrong <= _LOSS_TOLERANCE[precision]:
        return f"its loss differs by {wrong:.0e} here"
    if fast[1].keys() != plain[1].keys():
        return "it trains other weights"
    size = sum(expected.norm().square().item() for expected in plain[1].values())
    total = 0.0
    for name, expected in plain[1].items():
        difference = (fast[1][name] - expected).norm().item()
        total += difference**2
        wrong = difference / max(expected.norm().item(), 1e-12)
        if not wrong <= _ONE_TOLERANCE[precision]:
            return f"its gradient of {name} differs by {wrong:.0e} here"
    wrong = (total / max(size, 1e-24)) ** 0.5
    return None if wrong <= _ALL_TOLERANCE[precision] else f"its gradients differ by {wrong:.0e} here"


@contextmanager
def _moved_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Adapters away from their start, where B is zero and half of all gradients would be zero too. Their
    values are put back bit for bit, and no random state is used."""
    draw = np.random.Generator(np.random.Philox(0))
    weights = [layer.lora_B.weight for _, layer in lora_layers(model)]
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.from_numpy(draw.normal(0, 0.01, size=weight.shape)).to(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)


def _draw_batch(vocabulary: int) -> Batch:
    draw = np.random.Generator(np.random.Philox(0))
    shape = (len(_LENGTHS), _ROW)
    tokens_BT = np.zeros(shape, np.int32)
    positions_BT = np.zeros(shape, np.int32)
    weights_BT = np.zeros(shape, np.float32)
    for row, lengths in enumerate(_LENGTHS):
        start = 0
        for length in lengths:
            at = (row, slice(start, start + length))
            tokens_BT[at] = draw.integers(0, vocabulary, size=length)
            positions_BT[at] = np.arange(length)
            weights_BT[at] = draw.random(length) < 0.6
            weights_BT[row, start] = 0
            start += length
    return Batch(tokens_BT, positions_BT, weights_BT, _LENGTHS)
