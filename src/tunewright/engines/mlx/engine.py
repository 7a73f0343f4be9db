"""The MLX engine: one model, its adapter and its optimizer on Apple silicon, or on any CPU.

It ties the files of this folder together and holds no arithmetic of its own. Read protocol.py first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from tunewright.engines.batches import Recent, check_tokens, count_labels
from tunewright.engines.mlx.arrays import to_number
from tunewright.engines.mlx.attention_check import check_model
from tunewright.engines.mlx.device import (
    detect_device,
    memory_used_bytes,
    on_device,
    prepare_device,
    usable_bytes,
)
from tunewright.engines.mlx.export import export_adapter, export_model, load_adapter
from tunewright.engines.mlx.gradients import Passes
from tunewright.engines.mlx.load import BaseModel, load_model
from tunewright.engines.mlx.lora import add_adapter, lora_layers, train_all
from tunewright.engines.mlx.loss import to_device
from tunewright.engines.mlx.memory import PassMemory
from tunewright.engines.mlx.optimizer import AdamW, StepOutcome
from tunewright.engines.mlx.precision import DTYPES, build_loss_scale
from tunewright.engines.mlx.rng import RandomKey
from tunewright.engines.mlx.rows import Grouping, Rows, split_rows
from tunewright.engines.mlx.state import Parts, restore, snapshot
from tunewright.engines.number_formats import check_formats
from tunewright.engines.protocol import EngineFacts, EngineSpec
from tunewright.errors import EngineError
from tunewright.models.lora import count_kinds
from tunewright.types import Batch, EngineState, LossSums, StepStats

# A CPU computes what it is given and compiles nothing; a GPU is idle between passes and compiles each shape.
_CPU_GROUPING = Grouping(width_step=16, pass_cost=32, few_shapes=False)
_GPU_GROUPING = Grouping(width_step=64, pass_cost=512, few_shapes=True)
# Steps between two returns of freed buffers to the system: shapes that no longer occur leave theirs behind.
_CLEAR_EVERY = 50


def build_engine(spec: EngineSpec) -> MlxEngine:
    """Load the base, prove the forward pass on it, add what trains.

    Raises ModelError for a bad folder, EngineError for what this device or model cannot do.
    """
    device = detect_device(spec.device)
    check_formats(spec.dtype, spec.precision)
    _check_options(spec)
    prepare_device(device.device)
    with on_device(device.device):
        base = load_model(
            spec.model_folder,
            dtype=DTYPES[spec.dtype],
            quantization=spec.quantization,
            memory_bytes=usable_bytes(device),
        )
        check_model(base, spec.dtype)
        if spec.adapter.kind == "lora":
            add_adapter(base, spec.adapter, spec.seed)
            if spec.adapter_folder is not None:
                load_adapter(base, spec.adapter_folder, spec.adapter)
        else:
            train_all(base)
        return MlxEngine(spec, base, device.device, usable_bytes(device))


class PendingMlxStep:
    """Device scalars of a dispatched step; reading them waits for the device."""

    def __init__(
        self, sums: list[mx.array], rights: list[mx.array], counts: LossSums, outcome: StepOutcome
    ) -> None:
        self._sums, self._rights, self._counts, self._outcome = sums, rights, counts, outcome

    def read(self) -> StepStats:
        """Wait and return the numbers."""
        sums = _read_sums(self._sums, self._rights, self._counts)
        outcome = self._outcome
        return StepStats(
            sums,
            gradient_norm=to_number(outcome.norm),
            skipped=bool(to_number(outcome.skipped)),
            rescaled=bool(to_number(outcome.rescaled)),
        )


class MlxEngine:
    """Implements engines.protocol.Engine; see there for what each call promises."""

    def __init__(self, spec: EngineSpec, base: BaseModel, device: str, memory_bytes: int) -> None:
        self._spec, self._base, self._device = spec, base, device
        self._training, self._evaluation = (PassMemory(device, memory_bytes) for _ in range(2))
        trained: dict[str, Any] = dict(tree_flatten(base.module.trainable_parameters()))
        optimizer = AdamW(
            trained, betas=spec.betas, epsilon=spec.epsilon, weight_decay=spec.weight_decay,
            max_norm=spec.max_grad_norm,
        )  # fmt: skip
        self._parts = Parts(optimizer, RandomKey(spec.seed), build_loss_scale(spec.precision))
        self._passes = Passes(base, DTYPES[spec.precision], checkpointed_layers=spec.checkpointed_layers)
        self._grouping = _CPU_GROUPING if device == "cpu" else _GPU_GROUPING
        self._losses: list[mx.array] = []
        self._rights: list[mx.array] = []
        self._counts = LossSums()
        self._recent = Recent(spec.sample)
        self._steps = 0
        self._install()

    @property
    def facts(self) -> EngineFacts:
        """Counts, names and versions."""
        sizes = {name: values.size for name, values in self._parts.optimizer.weights.items()}
        return EngineFacts(
            engine="mlx",
            device=self._device,
            device_name=detect_device(self._device).name,
            attention="sdpa",
            parameters=self._base.parameters,
            trainable_parameters=sum(sizes.values()),
            trainable_biases=sum(size for name, size in sizes.items() if name.endswith(".bias")),
            versions={"mlx": version("mlx"), "mlx-lm": version("mlx-lm")},
            adapted=count_kinds([name for name, _ in lora_layers(self._base.module)]),
        )

    def forward_backward(self, micro_batches: Sequence[Batch], *, denominator: float) -> None:
        """Add gradients; what an earlier call added survives running out of memory here."""
        for batch in micro_batches:
            check_tokens(batch, self._base.arch.vocab_size)
        with on_device(self._device), self._all_or_nothing():
            for batch in micro_batches:
                self._one_batch(batch, denominator)
        for batch in micro_batches:
            self._counts += count_labels(batch)
        self._recent.remember(micro_batches)

    def discard_gradients(self) -> None:
        self._parts.optimizer.discard()
        self._forget_sums()

    def optim_step(self, *, lr: float, skip_above: float | None) -> PendingMlxStep:
        with on_device(self._device):
            outcome = self._parts.optimizer.step(lr=lr, skip_above=skip_above, scale=self._parts.scale)
            self._install()
        pending = PendingMlxStep(self._losses, self._rights, self._counts, outcome)
        self._forget_sums()
        self._steps += 1
        if self._steps % _CLEAR_EVERY == 0:
            mx.clear_cache()
        return pending

    def evaluate(self, batch: Batch) -> LossSums:
        check_tokens(batch, self._base.arch.vocab_size)
        losses: list[mx.array] = []
        rights: list[mx.array] = []
        with on_device(self._device):
            for rows in split_rows(batch, self._grouping):
                with self._evaluation.watched(*rows.tokens_KN.shape):
                    loss, right = self._passes.forward(self._parts.optimizer.weights, to_device(rows))
                    mx.eval(loss, right)
                losses.append(loss)
                rights.append(right)
        return _read_sums(losses, rights, count_labels(batch))

    def reduce_sum(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values)

    def snapshot(self) -> EngineState:
        return snapshot(self._parts)

    def restore(self, state: EngineState) -> None:
        restore(self._parts, state)
        self._forget_sums()
        self._install()

    def export(self, folder: Path, *, merge: bool) -> Mapping[str, object]:
        with on_device(self._device):
            if self._spec.adapter.kind == "lora" and not merge:
                return export_adapter(self._base, self._spec, folder)
            return export_model(self._base, self._spec, folder, self._recent)

    def memory_used_bytes(self) -> int:
        peak_bytes = max(self._training.peak_bytes, self._evaluation.peak_bytes)
        return memory_used_bytes(self._device, peak_bytes)

    def _one_batch(self, batch: Batch, denominator: float) -> None:
        optimizer, scale = self._parts.optimizer, self._parts.scale
        factor = mx.array(1 / denominator, mx.float32) * (1.0 if scale is None else scale.scale)
        for rows in split_rows(batch, self._grouping):
            self._feel_forward(rows, factor)
            key = self._parts.random.split() if self._spec.adapter.dropout else None
            with self._training.watched(*rows.tokens_KN.shape):
                loss, right, gradients = self._passes.differentiate(
                    optimizer.weights, to_device(rows), factor, key
                )
                optimizer.add(gradients)
                # Pass by pass: only one at a time holds its activations.
                mx.eval(optimizer.gradients, loss, right)
            self._losses.append(loss)
            self._rights.append(right)

    def _feel_forward(self, rows: Rows, factor: mx.array) -> None:
        """Passes over a part of the documents, for what they tell of memory, until the whole is foretold."""
        count, width = rows.tokens_KN.shape
        if count == 1 or self._training.foretells(count, width):
            return
        part = rows.first(max(1, count // 4))
        self._feel_forward(part, factor)
        key = mx.random.key(0) if self._spec.adapter.dropout else None
        with self._training.watched(*part.tokens_KN.shape):
            mx.eval(self._passes.differentiate(self._parts.optimizer.weights, to_device(part), factor, key))

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Put gradients, sums and random key back to where they were before an exception."""
        optimizer, random = self._parts.optimizer, self._parts.random
        gradients, key, sums = dict(optimizer.gradients), random.key, len(self._losses)
        try:
            yield
        except BaseException:
            optimizer.gradients, random.key = gradients, key
            del self._losses[sums:], self._rights[sums:]
            raise

    def _forget_sums(self) -> None:
        self._losses, self._rights, self._counts = [], [], LossSums()

    def _install(self) -> None:
        """Let the module show the newest weights: evaluation and export read them there."""
        tree: Any = tree_unflatten(list(self._parts.optimizer.weights.items()))
        self._base.module.update(tree)


def _read_sums(losses: Sequence[mx.array], rights: Sequence[mx.array], counts: LossSums) -> LossSums:
    loss, correct = (sum(to_number(one) for one in values) for values in (losses, rights))
    return LossSums(loss, counts.weight, counts.tokens, int(correct))


def _check_options(spec: EngineSpec) -> None:
    if spec.attention not in ("auto", "sdpa"):
        raise EngineError(
            "the mlx engine has no such attention",
            where="model.attention",
            got=spec.attention,
            expected="auto or sdpa",
            hint="set model.attention: auto",
            code="engine.unsupported-option",
        )
