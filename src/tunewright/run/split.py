"""How a batch is spread over forward passes, and how many layers recompute: what fits into the memory.

Neither changes what a step learns, so both are chosen for speed alone: rows first, recomputing last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tunewright.config.schema import RunConfig
from tunewright.errors import ConfigError
from tunewright.models.arch import Arch
from tunewright.models.footprint import count_trained
from tunewright.run.engine_options import expects_eager, resolve_optimizer, why_plain
from tunewright.run.memory import Facts, MemoryNeed, fits, split_need

AUTO_MICRO_BATCH_TOKENS = 8192
"""Tokens of one micro-batch under `micro_batch_size: auto`: enough to keep two cores or a GPU busy."""

# Fewer tokens a pass leave a device idle, and cost more than recomputing a few layers.
_BUSY_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Split:
    """rows: of seq_len tokens a forward pass. checkpointed: the first so many layers recompute."""

    rows: int
    checkpointed: int
    need: MemoryNeed


def memory_facts(
    config: RunConfig, arch: Arch, kind: str, dtypes: tuple[str, str], quantization: str
) -> Facts:
    """What the memory of a run depends on, without its split. kind: of device: cpu, cuda or mps. dtypes: of
    storage and of computing. Raises ConfigError."""
    return Facts(
        arch=arch,
        trained=count_trained(arch, config.adapter),
        kind=kind,
        dtype=dtypes[0],
        precision=dtypes[1],
        quantization=quantization,
        dropout=config.adapter.kind == "lora" and config.adapter.dropout > 0,
        seq_len=config.data.seq_len,
        batch_size=_rows_per_step(config),
        eager=expects_eager(config, arch),
        fast_document=config.data.seq_len if why_plain(config, arch, kind, dtypes) is None else 0,
        capped_document=config.data.seq_len if arch.attention_soft_cap else 0,
        optimizer=resolve_optimizer(config, config.engine, kind),
    )


def resolve_split(config: RunConfig, facts: Facts, memory_bytes: int) -> Split:
    """The split for `memory_bytes`; what is not `auto` stays as it is. Raises ConfigError.

    Rows are as many as AUTO_MICRO_BATCH_TOKENS allow and as fit, though not so few that a device idles. Only
    then layers recompute, as few as make it fit. The smallest split when nothing fits.
    """
    rows = config.train.micro_batch_size
    checkpointing = config.train.activation_checkpointing
    return choose_split(
        facts,
        memory_bytes,
        rows=rows if rows == "auto" else resolve_micro_batch_size(config),
        checkpointed=checkpointing
        if checkpointing == "auto"
        else count_checkpointed(checkpointing, facts.arch),
    )


def choose_split(
    facts: Facts,
    memory_bytes: int,
    *,
    rows: int | Literal["auto"] = "auto",
    checkpointed: int | Literal["auto"] = "auto",
) -> Split:
    """As resolve_split, from facts alone. memory_bytes: 0 for not known, and then all splits fit."""

    def split(rows: int, layers: int) -> Split:
        return Split(rows, layers, split_need(facts, rows, layers))

    one: Split | None = None
    for candidate in _candidates(facts, rows, checkpointed):
        one = split(*candidate)
        if fits(one.need, memory_bytes):
            break
    assert one is not None
    return one


def resolve_micro_batch_size(config: RunConfig) -> int:
    """Rows per forward pass before memory is looked at. Never more than a step holds; `auto` fills
    AUTO_MICRO_BATCH_TOKENS."""
    asked = config.train.micro_batch_size
    if asked == "auto":
        asked = max(1, AUTO_MICRO_BATCH_TOKENS // config.data.seq_len)
    return min(asked, _rows_per_step(config))


def count_checkpointed(asked: bool | int, arch: Arch) -> int:
    """Layers that recompute when it is not `auto`. Raises ConfigError for more than there are."""
    if isinstance(asked, bool):
        return arch.layers if asked else 0
    if asked <= arch.layers:
        return asked
    raise ConfigError(
        "the model has fewer layers",
        where="train.activation_checkpointing",
        got=str(asked),
        expected=f"at most {arch.layers}, or true for all",
        code="config.wrong-value",
    )


def _candidates(
    facts: Facts, rows: int | Literal["auto"], checkpointed: int | Literal["auto"]
) -> Iterator[tuple[int, int]]:
    """(rows, checkpointed layers) in the order of preference."""
    most = max(1, min(facts.batch_size, AUTO_MICRO_BATCH_TOKENS // facts.seq_len))
    busy = min(most, -(-_BUSY_TOKENS // facts.seq_len))
    every = range(facts.arch.layers + 1)
    if rows != "auto":
        yield from ((rows, layers) for layers in (every if checkpointed == "auto" else (checkpointed,)))
    elif checkpointed != "auto":
        yield from ((count, checkpointed) for count in range(most, 0, -1))
    else:
        yield from ((count, 0) for count in range(most, busy, -1))
        yield from ((count, layers) for count in range(busy, 0, -1) for layers in every)


def _rows_per_step(config: RunConfig) -> int:
    """The most rows of seq_len tokens that a step holds."""
    tokens = config.train.tokens_per_batch
    return config.train.batch_size if tokens is None else -(-tokens // config.data.seq_len)
