"""The PyTorch engine: one model, its adapter and its optimizer on one CUDA, MPS or CPU device.

It ties the files of this folder together and holds no arithmetic of its own. Read protocol.py first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from tunewright.engines.batches import Recent, check_tokens, count_labels
from tunewright.engines.protocol import EngineFacts, EngineSpec
from tunewright.engines.torch.attention_choice import Attention, choose_attention
from tunewright.engines.torch.checkpointing import checkpoint_layers
from tunewright.engines.torch.determinism import only_deterministic
from tunewright.engines.torch.device import Fetch, detect_device, memory_used_bytes, raise_out_of_memory
from tunewright.engines.torch.export import export_adapter, export_model, load_adapter
from tunewright.engines.torch.fast.choose import Chosen, choose_kernels
from tunewright.engines.torch.heap import keep_freed_memory
from tunewright.engines.torch.lean_optimizer import build_optimizer
from tunewright.engines.torch.linear import find_unadapted
from tunewright.engines.torch.load import load_model, vocabulary_size
from tunewright.engines.torch.lora import add_adapter, train_all
from tunewright.engines.torch.loss import DeviceSums, batch_loss, check_head, to_device
from tunewright.engines.torch.modes import list_idle_noise, set_training
from tunewright.engines.torch.optimizer import StepOutcome
from tunewright.engines.torch.precision import DTYPES, build_loss_scale, check_precision, compute_in
from tunewright.engines.torch.quantize import check_quantization, count_parameters
from tunewright.engines.torch.quantized_load import PackOnLoad
from tunewright.engines.torch.rng import RandomState
from tunewright.engines.torch.state import Parts, copy_buffers, restore, snapshot
from tunewright.models.lora import ALL_LINEAR, count_kinds
from tunewright.types import Batch, EngineState, LossSums, StepStats


def build_engine(spec: EngineSpec) -> TorchEngine:
    """Load the base, prove the attention on it, add what trains.

    Raises ModelError for a bad folder, EngineError for what this device or model cannot do.
    """
    device = torch.device(detect_device(spec.device).device)
    check_precision(spec.dtype, spec.precision, device)
    check_quantization(spec, device)
    with only_deterministic(spec.deterministic), raise_out_of_memory(device):
        model = load_model(
            spec.model_folder, dtype=DTYPES[spec.dtype], device=device, pack=_packing(spec, device)
        )
        attention = choose_attention(model, spec.attention, spec.precision, spec.sample)
        by_rows = check_head(model)
        parameters = count_parameters(model)
        adapted: list[str] = []
        not_adapted: Mapping[str, int] = {}
        if spec.adapter.kind == "lora":
            adapted = add_adapter(model, spec.adapter, spec.seed)
            if spec.adapter.targets == ALL_LINEAR:
                not_adapted = find_unadapted(model, frozenset(adapted))
            if spec.adapter_folder is not None:
                load_adapter(model, spec.adapter_folder, spec.adapter)
        else:
            train_all(model)
        chosen = choose_kernels(model, spec, by_rows=by_rows)
        checkpoint_layers(model, spec.checkpointed_layers)
        if device.type == "cpu" and chosen.kernels != "plain" and not spec.checkpointed_layers:
            # Faster where steps free the same few large blocks again and again; elsewhere it costs memory.
            # Not before loading: what that frees between weights that stay would lie there unused.
            keep_freed_memory()
        built = Built(attention, by_rows, parameters, chosen, count_kinds(adapted), not_adapted)
        return TorchEngine(spec, model, device, built)


def _packing(spec: EngineSpec, device: torch.device) -> PackOnLoad | None:
    if spec.quantization == "none":
        return None
    return PackOnLoad(device, DTYPES[spec.precision], spec.adapter.modules_to_save)


@dataclass(frozen=True, slots=True)
class Built:
    """What build_engine found out. by_rows: the loss may be computed on label rows only."""

    attention: Attention
    by_rows: bool
    base_parameters: int
    chosen: Chosen
    adapted: Mapping[str, int]
    not_adapted: Mapping[str, int]


class PendingTorchStep:
    """Numbers of a dispatched step on their way to the host."""

    def __init__(self, sums: list[DeviceSums], counts: LossSums, outcome: StepOutcome) -> None:
        none = outcome.norm.new_zeros(0)
        losses = torch.stack([one.loss for one in sums]) if sums else none
        correct = torch.stack([one.correct for one in sums]) if sums else none
        self._counts = counts
        self._fetch = Fetch(losses, correct, outcome.norm, outcome.skipped, outcome.rescaled)

    def read(self) -> StepStats:
        """Wait for this step, not for one that was dispatched after it, and return the numbers."""
        losses, correct, norm, skipped, rescaled = self._fetch.read()
        loss = float(sum(losses.tolist()))
        sums = LossSums(loss, self._counts.weight, self._counts.tokens, int(correct.sum().item()))
        return StepStats(sums, float(norm.item()), bool(skipped.item()), bool(rescaled.item()))


class TorchEngine:
    """Implements engines.protocol.Engine; see there for what each call promises."""

    def __init__(self, spec: EngineSpec, model: PreTrainedModel, device: torch.device, built: Built) -> None:
        self._spec, self._model, self._device, self._built = spec, model, device, built
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        optimizer = build_optimizer(spec, trained, device)
        scale = build_loss_scale(spec.precision, device)
        self._parts = Parts(model, optimizer, RandomState(spec.seed, device), scale, copy_buffers(model))
        self._sums: list[DeviceSums] = []
        self._counts = LossSums()
        self._recent = Recent(spec.sample)

    @property
    def facts(self) -> EngineFacts:
        """Counts, names and versions."""
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        if torch.version.cuda and self._device.type == "cuda":
            versions["cuda"] = torch.version.cuda
        slots = self._parts.optimizer.slots
        sizes = {name: slot.parameter.numel() for name, slot in slots.items()}
        return EngineFacts(
            engine="torch",
            device=str(self._device),
            device_name=detect_device(str(self._device)).name,
            attention=self._built.attention.name,
            parameters=self._built.base_parameters,
            trainable_parameters=sum(sizes.values()),
            trainable_biases=sum(size for name, size in sizes.items() if name.endswith(".bias")),
            versions=versions,
            adapted=self._built.adapted,
            not_adapted=self._built.not_adapted,
            kernels=self._built.chosen.kernels,
            path=self._built.chosen.path,
            layout=self._built.attention.layout,
            layout_reason=self._built.attention.reason,
            idle_noise=list_idle_noise(self._model),
        )

    def forward_backward(self, micro_batches: Sequence[Batch], *, denominator: float) -> None:
        """Add gradients; what an earlier call added survives running out of memory here."""
        for batch in micro_batches:
            # CUDA would end the process with an assertion.
            check_tokens(batch, vocabulary_size(self._model))
        set_training(self._model)
        with self._guard(), self._parts.random.active(), self._set_gradients_aside():
            sums = [self._one_pass(batch, denominator) for batch in micro_batches]
        self._sums += sums
        for batch in micro_batches:
            self._counts += count_labels(batch)
        self._recent.remember(micro_batches)

    def discard_gradients(self) -> None:
        self._parts.optimizer.discard()
        self._sums, self._counts = [], LossSums()

    def optim_step(self, *, lr: float, skip_above: float | None) -> PendingTorchStep:
        with only_deterministic(self._spec.deterministic):
            outcome = self._parts.optimizer.step(lr=lr, skip_above=skip_above, scale=self._parts.scale)
        pending = PendingTorchStep(self._sums, self._counts, outcome)
        self._sums, self._counts = [], LossSums()
        return pending

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> LossSums:
        check_tokens(batch, vocabulary_size(self._model))
        self._model.eval()
        with self._guard(), compute_in(self._spec.precision, self._device):
            sums = batch_loss(self._model, to_device(batch, self._device), by_rows=self._built.by_rows)
            loss, correct = float(sums.loss.item()), int(sums.correct.item())
        counts = count_labels(batch)
        return LossSums(loss, counts.weight, counts.tokens, correct)

    def reduce_sum(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values)

    def snapshot(self) -> EngineState:
        return snapshot(self._parts)

    def restore(self, state: EngineState) -> None:
        restore(self._parts, state)
        self._sums, self._counts = [], LossSums()

    def export(self, folder: Path, *, merge: bool) -> Mapping[str, object]:
        with self._guard():
            if self._spec.adapter.kind == "lora" and not merge:
                return export_adapter(self._model, self._spec, folder)
            return export_model(self._model, self._spec, folder, self._recent)

    def memory_used_bytes(self) -> int:
        return memory_used_bytes(self._device)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Around computing: what torch refuses, or has no memory for, comes out as an error with a hint."""
        with only_deterministic(self._spec.deterministic), raise_out_of_memory(self._device):
            yield

    def _one_pass(self, batch: Batch, denominator: float) -> DeviceSums:
        with compute_in(self._spec.precision, self._device):
            sums = batch_loss(self._model, to_device(batch, self._device), by_rows=self._built.by_rows)
        if sums.loss.requires_grad:
            factor = 1.0 if self._parts.scale is None else self._parts.scale.scale
            (sums.loss * (factor / denominator)).backward()
        return DeviceSums(sums.loss.detach(), sums.correct)

    @contextmanager
    def _set_gradients_aside(self) -> Iterator[None]:
        """Start from no gradients and add the earlier ones at the end, or put them back on an exception."""
        parameters = [slot.parameter for slot in self._parts.optimizer.slots.values()]
        earlier = [parameter.grad for parameter in parameters]
        self._parts.optimizer.discard()
        try:
            yield
        except BaseException:
            for parameter, gradient in zip(parameters, earlier, strict=True):
                parameter.grad = gradient
            raise
        for parameter, gradient in zip(parameters, earlier, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
