"""Resolve what was asked into what will be done: no `auto` is left in a Plan."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tunewright.config.load import config_hash
from tunewright.config.schema import RunConfig
from tunewright.data.step import StepSource
from tunewright.engines.number_formats import check_formats
from tunewright.engines.protocol import DeviceFacts
from tunewright.engines.registry import detect_device, resolve_engine
from tunewright.errors import ConfigError
from tunewright.host_cpu import usable_cores
from tunewright.models.arch import Arch
from tunewright.run.devices import class_of, kind_of
from tunewright.run.engine_options import (
    asked_layout,
    resolve_kernels,
    resolve_optimizer,
    resolve_quantization,
)
from tunewright.run.inputs import Inputs
from tunewright.run.remedies import check_fits
from tunewright.run.row_lengths import with_lengths
from tunewright.run.split import (
    count_checkpointed,
    memory_facts,
    resolve_micro_batch_size,
    resolve_split,
)
from tunewright.types import RowLayout

ADAPTER_LEARNING_RATE = 2e-4
FULL_LEARNING_RATE = 2e-5
# Packages that can change a number.
_VERSIONED = (
    "tunewright", "numpy", "torch", "bitsandbytes", "transformers", "mlx", "mlx-lm", "tokenizers",
    "safetensors",
)  # fmt: skip


class Plan(BaseModel):
    """Every resolved value of a run, stored as plan.json and in each checkpoint. A resume uses it as it is.

    micro_batch_size: rows of seq_len tokens a forward pass. checkpointed_layers: the first so many recompute.
    memory_peak_bytes and memory_usable_bytes: what the planner expects, and what it may plan with. rows:
    source rows of an epoch. steps_per_epoch: steps of the first one; with tokens_per_batch others may differ.
    Both are None where only reading all data would tell. threads: CPU threads of the engine; sums over floats
    depend on it. dtype: of what is not quantised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    engine: str
    device: str
    device_name: str
    device_memory_bytes: int
    model: str
    model_hash: str
    dtype: str
    quantization: str = "none"
    precision: str
    attention: str
    # What a resume computes layers with, and the same with the reason for a person.
    kernels: str = "plain"
    path: str = "plain"
    # Documents as rows, and why not as full as asked for, for a person.
    layout: RowLayout = "packed"
    layout_reason: str = ""
    checkpointed_layers: int
    micro_batch_size: int
    memory_peak_bytes: int = 0
    memory_usable_bytes: int = 0
    optimizer: str = "adamw"
    learning_rate: float
    total_steps: int
    steps_per_epoch: int | None
    rows: int | None
    held_out_rows: int
    seed: int
    threads: int
    data_hash: str
    config_hash: str
    versions: dict[str, str]


def resolve_plan(inputs: Inputs, stream: StepSource) -> Plan:
    """Settle every `auto` for this machine and this data. Raises ConfigError and EngineError."""
    config = inputs.config
    engine = resolve_engine(config.engine)
    device = detect_device(engine, config.device)
    dtype, precision = resolve_dtypes(config, device)
    place = class_of(device)
    quantization = resolve_quantization(config, engine, place.kind)
    facts = memory_facts(config, inputs.arch, place.kind, (dtype, precision), quantization)
    facts = with_lengths(facts, config, inputs.data)
    split = resolve_split(config, facts, place.usable_bytes)
    check_fits(facts, split, place.usable_bytes, device.name)
    return Plan(
        engine=engine,
        device=device.device,
        device_name=device.name,
        device_memory_bytes=device.memory_bytes,
        model=inputs.model.name,
        model_hash=inputs.model_hash,
        dtype=dtype,
        quantization=quantization,
        precision=precision,
        attention=config.model.attention,
        kernels=resolve_kernels(config, engine),
        layout=asked_layout(config),
        checkpointed_layers=split.checkpointed,
        micro_batch_size=split.rows,
        memory_peak_bytes=split.need.peak,
        memory_usable_bytes=place.usable_bytes,
        optimizer=resolve_optimizer(config, engine, place.kind),
        learning_rate=resolve_learning_rate(config),
        total_steps=resolve_total_steps(config, stream),
        steps_per_epoch=stream.count_steps(1.0),
        rows=stream.rows_per_epoch,
        held_out_rows=len(inputs.data.eval_examples),
        seed=config.train.seed,
        threads=usable_threads(),
        data_hash=inputs.data_hash,
        config_hash=config_hash(config),
        versions=installed_versions(),
    )


def read_plan(values: Mapping[str, Any], config: RunConfig, arch: Arch) -> Plan:
    """The plan of a checkpoint of any build. config: that of the checkpoint."""
    values = dict(values)
    if "activation_checkpointing" in values:
        # Was all layers or none.
        values["checkpointed_layers"] = arch.layers if values.pop("activation_checkpointing") else 0
    # The engines that took a quantisation before plans named it had one form each.
    kind = kind_of(values["device"])
    values.setdefault("layout", asked_layout(config))
    values.setdefault("quantization", resolve_quantization(config, values["engine"], kind))
    return Plan.model_validate(values)


def amend_plan(plan: Plan, before: RunConfig, now: RunConfig, arch: Arch) -> tuple[Plan, dict[str, object]]:
    """The plan of a resumed run, and what of it was changed on purpose: `auto` keeps what was resolved."""
    changes: dict[str, object] = {}
    if now.train.micro_batch_size not in ("auto", before.train.micro_batch_size):
        changes["micro_batch_size"] = resolve_micro_batch_size(now)
    checkpointing = now.train.activation_checkpointing
    if checkpointing not in ("auto", before.train.activation_checkpointing):
        changes["checkpointed_layers"] = count_checkpointed(checkpointing, arch)
    return plan.model_copy(update=changes), changes


def resolve_dtypes(config: RunConfig, device: DeviceFacts) -> tuple[str, str]:
    """(storage type of frozen weights, compute type) for this device.

    Raises ConfigError (`config.unsupported-dtype`) for a compute type that the device lacks, and EngineError
    (`engine.dtype-mismatch`) for storage that cannot be computed with in it.
    """
    precision = config.train.precision
    if precision == "auto":
        precision = _best_precision(config, device)
    if precision not in device.dtypes:
        raise ConfigError(
            f"{device.device} ({device.name}) cannot train in {precision}",
            where="train.precision",
            expected=" or ".join(device.dtypes),
            hint="use train.precision: auto",
            code="config.unsupported-dtype",
        )
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "fp32" if config.adapter.kind == "none" else precision
    check_formats(dtype, precision)
    return dtype, precision


def _best_precision(config: RunConfig, device: DeviceFacts) -> str:
    """16 bits where the device multiplies them natively. Full training on a CPU stays in fp32: no fast layers
    are there for it."""
    if device.device == "cpu" and config.adapter.kind == "none":
        return "fp32"
    return next((name for name in ("bf16", "fp16") if name in device.dtypes), "fp32")


def resolve_learning_rate(config: RunConfig) -> float:
    """The peak learning rate."""
    asked = config.train.learning_rate
    if asked != "auto":
        return asked
    return FULL_LEARNING_RATE if config.adapter.kind == "none" else ADAPTER_LEARNING_RATE


def resolve_total_steps(config: RunConfig, stream: StepSource) -> int:
    """Optimizer steps of the whole run. Raises ConfigError (`config.max-steps-needed`) where nothing but
    train.max_steps can say."""
    steps, most = stream.count_steps(config.train.epochs), config.train.max_steps
    if steps is not None:
        return min(steps, most or steps)
    if most is None:
        raise ConfigError(
            "how many steps make an epoch is not known before the data has been read",
            where="train.max_steps",
            got="nothing",
            expected="the number of steps of the run",
            hint="set train.max_steps",
            code="config.max-steps-needed",
        )
    return most


def installed_versions() -> dict[str, str]:
    """Versions of what can change a number."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def usable_threads() -> int:
    """CPU threads an engine uses: OMP_NUM_THREADS, else the cores this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return usable_cores()
