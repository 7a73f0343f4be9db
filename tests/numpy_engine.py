"""A small real engine in NumPy: proof that the loop, checkpoints and events know no framework.

The model predicts the next token from the current one: embedding, dropout, one tanh layer, softmax. Values
and optimizer state are float32; a step is computed in float64.

Shape letters: N labels of a batch, V vocabulary, D width of the embedding, H width of the hidden layer.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.arrays import read_arrays, write_arrays
from tunewright.engines.protocol import EngineFacts, EngineSpec
from tunewright.errors import CheckpointError
from tunewright.types import Array, Batch, EngineState, LossSums, StepStats

Values = dict[str, NDArray[Any]]
WIDTH = 16
NO_DECAY = ("hidden.bias",)


def build_engine(spec: EngineSpec) -> NumpyEngine:
    """An engine whose vocabulary comes from the model folder's config.json."""
    config = json.loads((spec.model_folder / "config.json").read_text())
    return NumpyEngine(spec, initial_values(config["vocab_size"], spec.seed))


def initial_values(vocabulary: int, seed: int) -> Values:
    """Start values, each a function of the seed and its name alone."""
    shapes = {
        "embedding": (vocabulary, WIDTH),
        "hidden.weight": (WIDTH, WIDTH),
        "hidden.bias": (WIDTH,),
        "output": (WIDTH, vocabulary),
    }
    return {name: _draw(name, shape, seed) for name, shape in shapes.items()}


def loss_and_gradients(
    values: Mapping[str, NDArray[Any]], batch: Batch, keep_ND: NDArray[Any] | float
) -> tuple[LossSums, Values]:
    """Sums over the labels of one batch and the gradients of Σ weight · loss.

    keep_ND: what the embedding of each label's position is multiplied by (dropout); 1.0 keeps all.
    """
    inputs_N, labels_N, weights_N = _labels(batch)
    rows_N = np.arange(len(labels_N))
    dropped_ND = values["embedding"][inputs_N] * keep_ND
    hidden_NH = np.tanh(dropped_ND @ values["hidden.weight"] + values["hidden.bias"])
    logits_NV = hidden_NH @ values["output"]
    logits_NV = logits_NV - logits_NV.max(axis=1, keepdims=True)
    odds_NV = np.exp(logits_NV)
    total_N = odds_NV.sum(axis=1)
    sums = LossSums(
        float(weights_N @ (np.log(total_N) - logits_NV[rows_N, labels_N])),
        float(weights_N.sum()),
        len(labels_N),
        int((logits_NV.argmax(axis=1) == labels_N).sum()),
    )
    d_logits_NV = odds_NV / total_N[:, None]
    d_logits_NV[rows_N, labels_N] -= 1
    d_logits_NV *= weights_N[:, None]
    d_sum_NH = (d_logits_NV @ values["output"].T) * (1 - hidden_NH**2)
    d_embedding = np.zeros_like(values["embedding"])
    np.add.at(d_embedding, inputs_N, (d_sum_NH @ values["hidden.weight"].T) * keep_ND)
    return sums, {
        "embedding": d_embedding,
        "hidden.weight": dropped_ND.T @ d_sum_NH,
        "hidden.bias": d_sum_NH.sum(axis=0),
        "output": hidden_NH.T @ d_logits_NV,
    }


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A step of an engine that never runs ahead."""

    stats: StepStats

    def read(self) -> StepStats:
        return self.stats


class NumpyEngine:
    """Implements engines.protocol.Engine."""

    def __init__(self, spec: EngineSpec, values: Values) -> None:
        self._spec = spec
        self.values = values
        self._first = {name: np.zeros_like(value) for name, value in values.items()}
        self._second = {name: np.zeros_like(value) for name, value in values.items()}
        self._updates = 0
        self._dropout = np.random.Generator(np.random.Philox(spec.seed))
        self.discard_gradients()

    @property
    def facts(self) -> EngineFacts:
        count = sum(value.size for value in self.values.values())
        return EngineFacts("numpy", "cpu", "NumPy", "none", count, count, {"numpy": np.__version__})

    def forward_backward(self, micro_batches: Sequence[Batch], *, denominator: float) -> None:
        for batch in micro_batches:
            wide = {name: value.astype(np.float64) for name, value in self.values.items()}
            sums, gradients = loss_and_gradients(wide, batch, self._draw_keep(batch))
            self._sums += sums
            with np.errstate(over="ignore"):
                for name, gradient in gradients.items():
                    self._gradients[name] += (gradient / denominator).astype(np.float32)

    def discard_gradients(self) -> None:
        self._gradients = {name: np.zeros_like(value) for name, value in self.values.items()}
        self._sums = LossSums()

    def optim_step(self, *, lr: float, skip_above: float | None) -> DoneStep:
        squares = [np.square(gradient, dtype=np.float64).sum() for gradient in self._gradients.values()]
        norm = math.sqrt(sum(squares)) if all(map(math.isfinite, squares)) else math.inf
        skipped = not math.isfinite(norm) or (skip_above is not None and norm > skip_above)
        if not skipped:
            limit = self._spec.max_grad_norm
            self._update(lr, min(1.0, limit / norm) if limit and norm else 1.0)
        stats = StepStats(self._sums, norm, skipped)
        self.discard_gradients()
        return DoneStep(stats)

    def evaluate(self, batch: Batch) -> LossSums:
        wide = {name: value.astype(np.float64) for name, value in self.values.items()}
        return loss_and_gradients(wide, batch, 1.0)[0]

    def reduce_sum(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values)

    def snapshot(self) -> EngineState:
        groups = {"model": self.values, "first": self._first, "second": self._second}
        arrays = {
            f"{group}/{name}": Array("F32", value.shape, value.tobytes())
            for group, values in groups.items()
            for name, value in values.items()
        }
        generator = _plain(self._dropout.bit_generator.state)
        return EngineState(arrays, {"updates": self._updates, "dropout": generator})

    def restore(self, state: EngineState) -> None:
        expected = {name: array.shape for name, array in self.snapshot().arrays.items()}
        given = {name: tuple(array.shape) for name, array in state.arrays.items()}
        if wrong := sorted(name for name in expected | given if expected.get(name) != given.get(name)):
            raise CheckpointError(
                "the checkpoint does not fit the model",
                where=wrong[0],
                got=given.get(wrong[0], "nothing"),
                expected=str(expected.get(wrong[0], "nothing")),
                code="checkpoint.other-model",
            )
        values: dict[str, Any] = dict(state.values)
        for group, target in (("model", self.values), ("first", self._first), ("second", self._second)):
            for name in target:
                array = state.arrays[f"{group}/{name}"]
                target[name] = np.frombuffer(array.data, "<f4").reshape(array.shape).copy()
        self._updates = values["updates"]
        self._dropout.bit_generator.state = values["dropout"]
        self.discard_gradients()

    def export(self, folder: Path, *, merge: bool) -> Mapping[str, object]:
        arrays = {name: Array("F32", value.shape, value.tobytes()) for name, value in self.values.items()}
        write_arrays(folder / "model.safetensors", arrays)
        read = read_arrays(folder / "model.safetensors")
        equal = all(bytes(read[name].data) == arrays[name].data for name in arrays)
        return {"compared": "bytes", "tensors": len(arrays), "equal": equal, "merged": merge}

    def memory_used_bytes(self) -> int:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _draw_keep(self, batch: Batch) -> NDArray[Any] | float:
        drop = self._spec.adapter.dropout
        if not drop:
            return 1.0
        labels = int(np.count_nonzero(batch.weights_BT))
        return (self._dropout.random((labels, WIDTH)) >= drop) / (1 - drop)

    def _update(self, lr: float, clip: float) -> None:
        """AdamW with bias correction; biases do not decay."""
        self._updates += 1
        beta1, beta2 = self._spec.betas
        for name, gradient in self._gradients.items():
            gradient = gradient * np.float32(clip)
            first = beta1 * self._first[name] + (1 - beta1) * gradient
            second = beta2 * self._second[name] + (1 - beta2) * gradient**2
            root = np.sqrt(second / (1 - beta2**self._updates)) + self._spec.epsilon
            decay = 0.0 if name in NO_DECAY else self._spec.weight_decay
            value = self.values[name] * (1 - lr * decay)
            value = value - lr * (first / (1 - beta1**self._updates)) / root
            self.values[name] = value.astype(np.float32)
            self._first[name], self._second[name] = first.astype(np.float32), second.astype(np.float32)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.Philox(key=[seed, key]))
    return generator.normal(0, 0.3, shape).astype(np.float32)


def _labels(batch: Batch) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    # Position t - 1 predicts token t; the first token of a document weighs 0, so no pair crosses documents.
    row_N, at_N = np.nonzero(batch.weights_BT)
    inputs_N, labels_N = batch.tokens_BT[row_N, at_N - 1], batch.tokens_BT[row_N, at_N]
    return inputs_N, labels_N, batch.weights_BT[row_N, at_N].astype(np.float64)


def _plain(state: Any) -> Any:
    """A generator's state as JSON values."""
    if isinstance(state, Mapping):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else copy.copy(state)
