"""What a run will take in memory and time, from its run file alone: no engine, no tensors, no download."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from tunewright.config.schema import QuantizationConfig, RunConfig
from tunewright.data.templates import load_tokenizer
from tunewright.errors import ConfigError, ModelError
from tunewright.models.arch import Arch, load_arch
from tunewright.models.footprint import count_trained, flops_per_token
from tunewright.models.known import known_arch, known_models
from tunewright.models.resolve import find_on_disk
from tunewright.run.data_size import DataSize, estimate_data
from tunewright.run.devices import GIB, DeviceClass
from tunewright.run.engine_options import resolve_quantization
from tunewright.run.memory import Facts, MemoryNeed, choose_split, split_need
from tunewright.run.plan import resolve_dtypes


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run on a device. from_table: sizes are those of the built-in table, the model is not on disk.

    micro_batch_size: rows of seq_len tokens. remedies: changes of settings that would make it fit, the
    smallest first. tokens_per_second: None where the speed of the device is not known. data and steps: None
    without data files (steps may come from `train.max_steps` alone).
    """

    model: str
    from_table: bool
    device: DeviceClass
    facts: Facts
    micro_batch_size: int
    checkpointed: bool
    need: MemoryNeed
    remedies: tuple[str, ...]
    flops_per_token: float
    tokens_per_second: float | None
    data: DataSize | None
    steps: int | None
    step_tokens: float

    @property
    def fits(self) -> bool:
        return self.need.peak <= self.device.usable_bytes

    @property
    def step_seconds(self) -> float | None:
        """Seconds of one optimizer step."""
        return self.step_tokens / self.tokens_per_second if self.tokens_per_second else None

    @property
    def seconds(self) -> float | None:
        """Seconds of all steps, without evaluation and saving; None where steps or speed are not known."""
        return self.steps * self.step_seconds if self.steps and self.step_seconds else None


def estimate_run(config: RunConfig, base_dir: Path, device: DeviceClass) -> Estimate:
    """Memory and time of a run on `device`. Raises ConfigError, ModelError and DataError."""
    arch, folder = find_arch(config)
    facts = memory_facts(config, arch, device)
    rows, checkpointed = choose_split(
        facts,
        device.usable_bytes,
        micro_batch_size=config.train.micro_batch_size,
        activation_checkpointing=config.train.activation_checkpointing,
    )
    need = split_need(facts, rows, checkpointed)
    template = base_dir / config.data.chat_template if config.data.chat_template else None
    data = estimate_data(config.data, base_dir, load_tokenizer(folder, template) if folder else None)
    document = data.tokens_per_row if data else facts.seq_len
    flops = flops_per_token(
        arch, facts.trained, document_length=max(1, round(document)), checkpointed=checkpointed
    )
    rate = device.flops.get(facts.precision)
    step_tokens = float(config.train.tokens_per_batch or config.train.batch_size * document)
    return Estimate(
        model=config.model.name,
        from_table=folder is None,
        device=device,
        facts=facts,
        micro_batch_size=rows,
        checkpointed=checkpointed,
        need=need,
        remedies=()
        if need.peak <= device.usable_bytes
        else tuple(_remedies(facts, rows, device.usable_bytes)),
        flops_per_token=flops,
        tokens_per_second=rate * device.efficiency / flops if rate else None,
        data=data,
        steps=_count_steps(config, data, step_tokens),
        step_tokens=step_tokens,
    )


def check_fits(estimate: Estimate) -> None:
    """Raise ConfigError (`config.memory`), with what would make it fit, when the run needs too much."""
    if estimate.fits:
        return
    usable = estimate.device.usable_bytes / GIB
    raise ConfigError(
        "the run does not fit into the memory of the device",
        where=estimate.device.name,
        got=f"a need of {estimate.need.peak / GIB:.1f} GiB",
        expected=f"at most {usable:.1f} GiB",
        hint="any of: " + "; ".join(estimate.remedies)
        if estimate.remedies
        else "no setting makes it fit: use a smaller model or a larger device",
        code="config.memory",
    )


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


def memory_facts(config: RunConfig, arch: Arch, device: DeviceClass) -> Facts:
    """What the memory of a run depends on, without its split. Raises ConfigError."""
    dtype, precision = resolve_dtypes(config, device.facts)
    # Of the device that is planned for, which need not be the one this runs on.
    on_device = "mlx" if device.kind == "mps" else "torch"
    engine = on_device if config.engine == "auto" else config.engine
    return Facts(
        arch=arch,
        trained=count_trained(arch, config.adapter),
        kind=device.kind,
        dtype=dtype,
        precision=precision,
        quantization=resolve_quantization(config, engine),
        dropout=config.adapter.kind == "lora" and config.adapter.dropout > 0,
        seq_len=config.data.seq_len,
        batch_size=config.train.batch_size,
        eager=config.model.attention == "eager",
    )


def _remedies(facts: Facts, rows: int, memory_bytes: int) -> Iterator[str]:
    """Changes that make a run fit, in the order of what they cost, each with those before it."""

    def peak(changed: Facts, at: int, checkpointed: bool) -> int:
        return split_need(changed, at, checkpointed).peak

    if rows > 1 and peak(facts, 1, False) <= memory_bytes:
        yield "train.micro_batch_size: 1"
    for at in dict.fromkeys((rows, 1)):
        if peak(facts, at, True) <= memory_bytes:
            yield f"train.activation_checkpointing: true with train.micro_batch_size: {at}"
            break
    for kind in () if facts.trained.full else _quantizations(facts.kind):
        if facts.quantization == "none" and peak(replace(facts, quantization=kind), 1, True) <= memory_bytes:
            yield f"model.quantization: {kind} with checkpointing and train.micro_batch_size: 1"
    length = facts.seq_len // 2
    while length >= 256:
        if peak(replace(facts, seq_len=length), 1, True) <= memory_bytes:
            yield f"data.seq_len: {length} with checkpointing and train.micro_batch_size: 1"
            return
        length //= 2
    if facts.trained.full:
        yield "adapter.kind: lora, which keeps no moments and gradients of the base"


def _quantizations(kind: str) -> tuple[str, ...]:
    """The 4-bit storage of this kind of device, when the run file takes it."""
    name = "4bit" if kind == "mps" else "nf4"
    taken = get_args(QuantizationConfig.model_fields["kind"].annotation)
    return (name,) if name in taken else ()


def _count_steps(config: RunConfig, data: DataSize | None, step_tokens: float) -> int | None:
    if data is None:
        return config.train.max_steps
    per_epoch = data.rows * data.tokens_per_row / step_tokens
    steps = max(1, math.ceil(config.train.epochs * math.ceil(per_epoch)))
    return min(steps, config.train.max_steps or steps)
