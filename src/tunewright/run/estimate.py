"""What a run will take in memory and time, from its run file alone: no engine, no tensors, no download."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tunewright.config.schema import RunConfig
from tunewright.data.templates import load_tokenizer
from tunewright.errors import ModelError
from tunewright.models.arch import Arch, load_arch
from tunewright.models.footprint import flops_per_token, forward_flops_per_token
from tunewright.models.known import known_arch, known_models
from tunewright.models.resolve import find_on_disk
from tunewright.run.data_size import DataSize, estimate_data
from tunewright.run.devices import DeviceClass
from tunewright.run.engine_options import expected_layout, expected_path, resolve_quantization
from tunewright.run.inputs import check_data_fits
from tunewright.run.known_data import count_data, find_data
from tunewright.run.memory import Facts, MemoryNeed, fits
from tunewright.run.plan import resolve_dtypes
from tunewright.run.remedies import check_fits, list_remedies
from tunewright.run.row_lengths import with_lengths
from tunewright.run.split import Split, memory_facts, resolve_split
from tunewright.train.cadence import build_cadence
from tunewright.types import RowLayout


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run on a device. from_table: sizes are those of the built-in table, the model is not on disk.

    tokens_per_second: None where the speed of the device is not known. data and steps: None
    without data files (steps may come from `train.max_steps` alone). evaluations: None without steps.
    path: how layers are expected to be computed. layout: the same of documents as rows.
    """

    model: str
    from_table: bool
    device: DeviceClass
    facts: Facts
    path: str
    layout: RowLayout
    split: Split
    flops_per_token: float
    tokens_per_second: float | None
    data: DataSize | None
    steps: int | None
    step_tokens: float
    evaluations: int | None
    evaluation_flops: float

    @property
    def need(self) -> MemoryNeed:
        return self.split.need

    @property
    def fits(self) -> bool:
        return fits(self.need, self.device.usable_bytes)

    @property
    def remedies(self) -> tuple[str, ...]:
        """Changes of settings that would make it fit, the smallest first."""
        usable = self.device.usable_bytes
        return () if self.fits else tuple(list_remedies(self.facts, self.split.rows, usable))

    @property
    def step_seconds(self) -> float | None:
        """Seconds of one optimizer step."""
        return self.step_tokens / self.tokens_per_second if self.tokens_per_second else None

    @property
    def seconds(self) -> float | None:
        """Seconds of all steps and of the evaluations whose rows are known, without saving; None where steps
        or speed are not known."""
        if not (self.steps and self.step_seconds):
            return None
        return self.steps * self.step_seconds + (self.evaluations or 0) * (self.evaluation_seconds or 0.0)

    @property
    def evaluation_seconds(self) -> float | None:
        """Seconds of one evaluation; None where held-out rows or speed are not known."""
        if self.tokens_per_second is None or self.data is None or self.data.held_out_tokens is None:
            return None
        share = self.evaluation_flops / self.flops_per_token
        return self.data.held_out_tokens * share / self.tokens_per_second


def estimate_run(config: RunConfig, base_dir: Path, device: DeviceClass) -> Estimate:
    """Memory and time of a run on `device`. Raises ConfigError, ModelError and DataError."""
    arch, folder = find_arch(config)
    # Of the device that is planned for, which need not be the one this runs on.
    on_device = "mlx" if device.kind == "mps" else "torch"
    engine = on_device if config.engine == "auto" else config.engine
    dtypes = resolve_dtypes(config, device.facts_for(engine))
    facts = memory_facts(config, arch, device.kind, dtypes, resolve_quantization(config, engine, device.kind))
    split = resolve_split(config, facts, device.usable_bytes)
    template = base_dir / config.data.chat_template if config.data.chat_template else None
    tokenizer = load_tokenizer(folder, template) if folder else None
    known = None
    if tokenizer is not None:
        # Full rows that fit need no look at the data; where they do not, only the rows themselves can say.
        at_any_cost = not fits(split.need, device.usable_bytes)
        known = find_data(config, base_dir, tokenizer, at_any_cost=at_any_cost)
    if known is not None and tokenizer is not None:
        check_data_fits(known, arch, config, tokenizer)
        facts = with_lengths(facts, config, known)
        split = resolve_split(config, facts, device.usable_bytes)
        data, steps = count_data(config, known)
    else:
        data, steps = estimate_data(config.data, base_dir, tokenizer), None
    document = data.tokens_per_row if data else facts.seq_len
    flops = flops_per_token(
        arch, facts.trained, document_length=max(1, round(document)), checkpointed=split.checkpointed
    )
    rate = device.flops.get(facts.precision)
    step_tokens = float(config.train.tokens_per_batch or config.train.batch_size * document)
    steps = steps or _count_steps(config, data, step_tokens)
    return Estimate(
        model=config.model.name,
        from_table=folder is None,
        device=device,
        facts=facts,
        path=expected_path(config, arch, device.kind, dtypes),
        layout=expected_layout(config, arch),
        split=split,
        flops_per_token=flops,
        tokens_per_second=rate * device.efficiency / flops if rate else None,
        data=data,
        steps=steps,
        step_tokens=step_tokens,
        evaluations=steps
        and build_cadence(config.checkpoint, config.evaluate, total_steps=steps).count_evaluations(),
        evaluation_flops=forward_flops_per_token(
            arch, facts.trained, document_length=max(1, round(document))
        ),
    )


def check_estimate(estimate: Estimate) -> None:
    """Raise ConfigError (`config.memory`), with what would make it fit, when the run needs too much."""
    device = estimate.device
    check_fits(estimate.facts, estimate.split, device.usable_bytes, device.name)


def find_arch(config: RunConfig) -> tuple[Arch, Path | None]:
    """Sizes of the model and its folder, which is None when they come from the table. Downloads nothing."""
    name = config.model.name
    folder = find_on_disk(name, config.model.revision)
    if folder is not None:
        return load_arch(folder), folder
    arch = known_arch(name)
    if arch is None:
        raise ModelError(
            "the model is not on this machine and its sizes are not in the table",
            where="model.name",
            got=name,
            expected="a model on disk, or one of " + ", ".join(known_models()),
            hint="`tunewright train` fetches it, and refuses it before that when it cannot be trained",
            code="model.unknown-size",
        )
    return arch, None


def _count_steps(config: RunConfig, data: DataSize | None, step_tokens: float) -> int | None:
    if data is None:
        return config.train.max_steps
    per_epoch = data.rows * data.tokens_per_row / step_tokens
    steps = max(1, math.ceil(config.train.epochs * math.ceil(per_epoch)))
    return min(steps, config.train.max_steps or steps)
