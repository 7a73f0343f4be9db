"""Proof, on the real model and on rows of the run, that fast layers compute what the plain ones do.

In 16 bits two right ways differ, through dozens of layers without bound, and neither is the other's
reference: fp32 is. Each layer alone gets the inputs and the gradient from above of one plain pass, so that
nothing adds up, and the fast one may not be much farther from fp32 than the plain one is.
"""

# B rows, T tokens of a row, S real tokens, L label rows, D model width

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from tunewright.engines.protocol import EngineSpec
from tunewright.engines.sample import take_pieces
from tunewright.engines.torch.device import send
from tunewright.engines.torch.fast.build import decoder_layers, replace_layer, restore_layers
from tunewright.engines.torch.fast.elementwise import Elementwise
from tunewright.engines.torch.fast.passes import (
    LabelRows,
    LayerPass,
    ModelPass,
    Results,
    pass_layer,
    pass_through,
)
from tunewright.engines.torch.fast.reference import computing_in_fp32, to_fp32
from tunewright.engines.torch.load import vocabulary_size
from tunewright.engines.torch.lora import lora_layers
from tunewright.engines.torch.loss import to_device
from tunewright.engines.torch.precision import compute_in
from tunewright.engines.torch.windows import has_windows, narrow_windows
from tunewright.types import Batch

# Two rows of several documents, one of a single token, two of equal length, with padding behind.
_LENGTHS = ((5, 41, 1), (7, 7, 12))
_ROW = 50
# Times as far from fp32 as the plain layer. Right layers of SmolLM2-135M, in bf16 and nf4, came to 3.4 at
# most; faults in one layer begin at 9 (docs/concepts/fast-path.md).
_FACTOR = 6.0
# A distance that any right result may have, as a share of it: a rounding to bf16, and what the order of sums
# makes of fp32, where plain layers are the reference itself.
_FLOOR = {"fp32": 1e-5, "bf16": 2.0**-8}


def find_fault(model: PreTrainedModel, spec: EngineSpec, ops: Elementwise, *, by_rows: bool) -> str | None:
    """Put a fast layer in the place of each one that is proved to compute the same; at the first that is not,
    put the old ones back and return what differs."""
    # Dropout draws one mask here and another there; the tests know it from its formula.
    model.eval()
    before = decoder_layers(model)
    trials = [_Trial(model, spec, by_rows=by_rows, narrow=narrow) for narrow in _widths(model)]
    with _moved_adapters(model):
        try:
            for trial in trials:
                trial.record(before)
            # The layers take over weights when they are built: the reference of each is computed before.
            reason = next(_faults(model, trials, before, ops), None)
        except _Failed as failed:
            reason = str(failed)
    if reason is not None:
        restore_layers(model, before)
    return reason


class _Failed(Exception):
    """A pass that ended with an error."""


def _widths(model: PreTrainedModel) -> tuple[bool, ...]:
    """Whether to narrow windows: both where there are any, since documents that fit may go another way."""
    return (False, True) if has_windows(model) else (False,)


def _faults(
    model: PreTrainedModel, trials: list[_Trial], before: list[nn.Module], ops: Elementwise
) -> Iterator[str]:
    for number, plain in enumerate(before):
        exact = [trial.refer(number, plain) for trial in trials]
        with _named_failures("failed here"):
            fast = replace_layer(model, number, ops)
            for trial, results in zip(trials, exact, strict=True):
                for what, measured in trial.compare(number, fast, results):
                    yield from _state(f"layer {number}: its {what}", measured)
    for trial in trials:
        with _named_failures("failed here"):
            for what, measured in trial.compare_whole():
                yield from _state(what, measured)


def _state(what: str, measured: float) -> Iterator[str]:
    if not measured <= _FACTOR:  # nor NaN
        yield f"{what} is {measured:.0f} times as far from fp32 as the plain layers'"


@contextmanager
def _named_failures(who: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _Failed(f"{who}: {str(error).partition(chr(10))[0][:100]}") from error


def excess(ours: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, precision: str) -> float:
    """Distance of `ours` from `exact` relative to that of `plain`, which counts as one rounding at least: the
    largest of any row, in the L2 norm. NaN where something is not a number."""
    sizes = exact.norm(dim=-1)
    allowed = (plain.float() - exact).norm(dim=-1) + _FLOOR[precision] * (sizes + 1e-3 * sizes.max())
    distances = (ours.float() - exact).norm(dim=-1)
    return (distances / allowed.clamp(min=1e-30)).max().item()


class _Trial:
    """One plain pass to compare with. narrow: with sliding windows that documents are longer than."""

    def __init__(self, model: PreTrainedModel, spec: EngineSpec, *, by_rows: bool, narrow: bool) -> None:
        self._model, self._precision, self._by_rows, self._narrow = model, spec.precision, by_rows, narrow
        batch = _build_batch(spec, vocabulary_size(model))
        self._batch = to_device(batch, model.device)
        real_BT = np.arange(_ROW) < np.array([sum(lengths) for lengths in _LENGTHS])[:, None]
        self._real_S = send(np.flatnonzero(real_BT), model.device)
        self._plain: ModelPass
        self._exact: torch.Tensor  # what fp32 makes of the batch, as far as refer() has come

    def record(self, layers: list[nn.Module]) -> None:
        """The pass through plain layers."""
        with _named_failures("the plain layers failed here"):
            self._plain = self._pass(layers)
        self._exact = self._plain.layers[0].inputs.float()

    def refer(self, number: int, layer: nn.Module) -> Results:
        """fp32 results of a plain layer. Called in the order of the layers."""
        recorded, rows = self._layer(number)
        named = {name: to_fp32(value) for name, value in recorded.named.items()}
        failures = _named_failures("the plain layers failed here")
        with failures, self._windows(), computing_in_fp32(self._model, layer):
            with torch.no_grad():
                self._exact = layer(self._exact, **named)
                if number == len(self._plain.layers) - 1:
                    norm: Any = self._model.base_model.norm
                    self._exact = norm(self._exact).flatten(0, 1)[self._batch.rows_L]
            return pass_layer(layer, recorded, recorded.inputs.float(), named, rows)

    def compare(self, number: int, layer: nn.Module, exact: Results) -> Iterator[tuple[str, float]]:
        """(what, excess) of each result of a fast layer."""
        recorded, rows = self._layer(number)
        plain = recorded.results
        named = {**recorded.named, **({} if rows is None else {"label_rows": rows.places_L})}
        with self._windows(), compute_in(self._precision, self._model.device):
            ours = pass_layer(layer, recorded, recorded.inputs, named, rows)
        output = plain.output if rows is None else rows.pick(plain.output)
        yield "output", self._rows_excess(ours.output, output, exact.output)
        if ours.gradients.keys() != plain.gradients.keys() or (ours.towards is None) != (
            plain.towards is None
        ):
            yield "set of gradients", math.inf
            return
        if plain.towards is not None and ours.towards is not None and exact.towards is not None:
            yield "input's gradient", self._rows_excess(ours.towards, plain.towards, exact.towards)
        for name, gradient in ours.gradients.items():
            yield f"gradient of {name}", self._excess(gradient, plain.gradients[name], exact.gradients[name])

    def compare_whole(self) -> Iterator[tuple[str, float]]:
        """The same of a pass through all fast layers: what the output head reads, and what trains."""
        ours = self._pass([])
        yield "what the output head reads", self._excess(ours.rows_LD, self._plain.rows_LD, self._exact)
        if ours.gradients != self._plain.gradients or not math.isfinite(ours.loss):
            yield "the set of gradients", math.inf

    def _pass(self, layers: list[nn.Module]) -> ModelPass:
        with self._windows(), compute_in(self._precision, self._model.device):
            return pass_through(self._model, self._batch, by_rows=self._by_rows, layers=layers)

    def _layer(self, number: int) -> tuple[LayerPass, LabelRows | None]:
        """What was recorded of a layer, and the rows that the last one is asked for."""
        last = number == len(self._plain.layers) - 1
        rows = LabelRows(self._batch.rows_L, self._batch.weights_L) if last and self._by_rows else None
        return self._plain.layers[number], rows

    def _windows(self) -> AbstractContextManager[None]:
        return narrow_windows(self._model) if self._narrow else nullcontext()

    def _rows_excess(self, *results: torch.Tensor) -> float:
        """Of each real token, or of the label rows that are all there is."""
        rows = [result.flatten(0, 1) for result in results]
        if len(rows[0]) == self._batch.tokens_BT.numel():
            rows = [row[self._real_S] for row in rows]
        ours, plain, exact = rows
        return excess(ours, plain, exact, self._precision)

    def _excess(self, ours: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> float:
        """Of all numbers together."""
        return excess(ours.flatten()[None], plain.flatten()[None], exact.flatten()[None], self._precision)


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


def _build_batch(spec: EngineSpec, vocabulary: int) -> Batch:
    """Rows of the run's data in the layout of the proof, some of them labels."""
    draw = np.random.Generator(np.random.Philox(0))
    shape = (len(_LENGTHS), _ROW)
    tokens_BT = np.zeros(shape, np.int32)
    positions_BT = np.zeros(shape, np.int32)
    weights_BT = np.zeros(shape, np.float32)
    pieces = iter(take_pieces(spec.sample, [n for lengths in _LENGTHS for n in lengths], vocabulary))
    for row, lengths in enumerate(_LENGTHS):
        start = 0
        for length in lengths:
            at = (row, slice(start, start + length))
            tokens_BT[at] = next(pieces)
            positions_BT[at] = np.arange(length)
            weights_BT[at] = draw.random(length) < 0.6
            weights_BT[row, start] = 0
            start += length
    return Batch(tokens_BT, positions_BT, weights_BT, _LENGTHS)
