"""What the training loop knows of an engine. PyTorch and MLX implement it; tests/ has a NumPy one.

The loop counts the loss weight of the whole optimizer step first and hands one denominator down, so that
accumulation, packing, padding and data-parallel width never change the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tunewright.config.schema import AdapterConfig
from tunewright.types import Batch, EngineState, LossSums, RowLayout, StepStats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything an engine is built from, already resolved (no `auto` left).

    model_folder: sanitised copy (config.json, *.safetensors, tokenizer files). model_name: as the user
    wrote it; goes into adapter_config.json. dtype: storage of frozen weights (fp32, bf16, fp16).
    precision: compute (fp32, bf16, fp16); trained weights and optimizer state are fp32 always.
    quantization: of the frozen base: none, nf4 (torch) or 4bit (mlx). merge_base: what an adapter on a
    quantised base is merged into, original or dequantised. optimizer: adamw; on CUDA also adamw_8bit and
    paged_adamw.
    adapter_folder: start from these adapter values instead of fresh ones. checkpointed_layers: the first so
    many decoder layers recompute their activations in the backward pass. kernels: how a layer is computed:
    plain, fast, or auto, which the engine settles once it knows the model. sample: tokens of a few rows of
    the run's data, for the proofs on the loaded model; empty where no data is known.
    """

    model_folder: Path
    model_name: str
    device: str
    dtype: str
    precision: str
    attention: str
    adapter: AdapterConfig
    adapter_folder: Path | None
    optimizer: str
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    max_grad_norm: float
    checkpointed_layers: int
    deterministic: bool
    seed: int
    quantization: str = "none"
    merge_base: str = "original"
    kernels: str = "plain"
    sample: tuple[NDArray[np.int32], ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What was built, for the plan print-out and plan.json. Counts are parameters. kernels: what the spec's
    came to. path: the same with the reason, for a person. trainable_biases: those of biases.
    layout: the fullest rows that the engine computes right with this model. layout_reason: why not fuller.
    idle_noise: dropout and jitter of the base model's own config, which no engine draws.
    adapted: modules with an adapter by kind, the last part of their names. not_adapted: matrices that have
    none although all linear layers were asked for."""

    engine: str
    device: str
    device_name: str
    attention: str
    parameters: int
    trainable_parameters: int
    versions: Mapping[str, str]
    kernels: str = "plain"
    path: str = "plain"
    trainable_biases: int = 0
    layout: RowLayout = "packed"
    layout_reason: str = ""
    idle_noise: str = ""
    adapted: Mapping[str, int] = field(default_factory=dict[str, int])
    not_adapted: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device offers before anything is loaded. memory_bytes: total, shared with the host on
    unified memory. dtypes: those that compute at native speed or better than emulated."""

    device: str
    name: str
    memory_bytes: int
    dtypes: tuple[str, ...]


class PendingStep(Protocol):
    """A dispatched step. Reading it waits for the device, so the loop reads it one step later."""

    def read(self) -> StepStats: ...


class Engine(Protocol):
    """One model, its adapter and its optimizer on one rank."""

    @property
    def facts(self) -> EngineFacts: ...

    def forward_backward(self, micro_batches: Sequence[Batch], *, denominator: float) -> None:
        """Add the gradients of Σ weight·loss / denominator over all micro-batches.

        Raises EngineOutOfMemory with weights, optimizer and random state as they were.
        """
        ...

    def discard_gradients(self) -> None:
        """Forget what forward_backward added since the last optimizer step."""
        ...

    def optim_step(self, *, lr: float, skip_above: float | None) -> PendingStep:
        """Clip by global norm, update, zero. A non-finite norm, or one above `skip_above`, leaves weights
        and optimizer state untouched, by a select on the device."""
        ...

    def evaluate(self, batch: Batch) -> LossSums:
        """Loss sums of one batch without gradients, adapter active, dropout off."""
        ...

    def reduce_sum(self, values: Sequence[float]) -> tuple[float, ...]:
        """Sum each value over the data-parallel ranks; the identity on one rank."""
        ...

    def snapshot(self) -> EngineState:
        """Copy everything resume needs to host memory: trained weights, optimizer, random state, scaler."""
        ...

    def restore(self, state: EngineState) -> None:
        """Continue from a snapshot. Raises CheckpointError when names or shapes do not fit."""
        ...

    def export(self, folder: Path, *, merge: bool) -> Mapping[str, object]:
        """Write a servable model into an empty folder: the adapter in PEFT format, or merged weights.

        Returns the certificate: what was compared, the bound and what was measured.
        """
        ...

    def memory_used_bytes(self) -> int:
        """Peak device memory since start; resident set of the process on a CPU."""
        ...
