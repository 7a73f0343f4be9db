"""What would make a run fit that needs more memory than its device has: computed, not guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tunewright.config.schema import AdapterConfig
from tunewright.errors import ConfigError
from tunewright.models.footprint import count_trained
from tunewright.run.memory import Facts, fits, split_need
from tunewright.run.split import Split

# Rows shorter than this hold hardly a conversation.
_SHORTEST = 256
_GIB = 2**30


def check_fits(facts: Facts, split: Split, memory_bytes: int, where: str) -> None:
    """Raise ConfigError (`config.memory`), with what would make it fit, when a run needs too much."""
    if fits(split.need, memory_bytes):
        return
    raise ConfigError(
        "the run does not fit into the memory of the device",
        where=where,
        got=f"a need of {split.need.peak / _GIB:.1f} GiB",
        expected=f"at most {memory_bytes / _GIB:.1f} GiB",
        hint=remedy_hint(facts, split.rows, memory_bytes),
        code="config.memory",
    )


def remedy_hint(facts: Facts, rows: int, memory_bytes: int) -> str:
    """The remedies in one line."""
    remedies = "; ".join(list_remedies(facts, rows, memory_bytes))
    if remedies:
        return f"any of: {remedies}"
    return "no setting makes it fit: use a smaller model or a larger device"


def list_remedies(facts: Facts, rows: int, memory_bytes: int) -> Iterator[str]:
    """Changes that make a run fit, in the order of what they cost, each with those before it. rows: of a
    micro-batch as it is now."""
    if rows > 1 and _fits(facts, 1, 0, memory_bytes):
        yield "train.micro_batch_size: 1"
    yield from _recomputing(facts, rows, memory_bytes)
    yield from _smaller_base(facts, memory_bytes)
    yield from _shorter_rows(facts, memory_bytes)
    yield from _adapter(facts, memory_bytes)


def _recomputing(facts: Facts, rows: int, memory_bytes: int) -> Iterator[str]:
    every = facts.arch.layers
    for at in dict.fromkeys((rows, 1)):
        if _fits(facts, at, every, memory_bytes):
            fewest = next(layers for layers in range(every + 1) if _fits(facts, at, layers, memory_bytes))
            if fewest:
                setting = "true" if fewest == every else fewest
                yield f"train.activation_checkpointing: {setting} with train.micro_batch_size: {at}"
            return


def _smaller_base(facts: Facts, memory_bytes: int) -> Iterator[str]:
    if facts.trained.full or facts.quantization != "none":
        return
    form = "4bit" if facts.kind == "mps" else "nf4"
    if _fits(replace(facts, quantization=form), 1, facts.arch.layers, memory_bytes):
        yield f"model.quantization: {form} with checkpointing and train.micro_batch_size: 1"


def _shorter_rows(facts: Facts, memory_bytes: int) -> Iterator[str]:
    length = facts.seq_len // 2
    while length >= _SHORTEST:
        if _fits(replace(facts, seq_len=length), 1, facts.arch.layers, memory_bytes):
            yield f"data.seq_len: {length} with checkpointing and train.micro_batch_size: 1"
            return
        length //= 2


def _adapter(facts: Facts, memory_bytes: int) -> Iterator[str]:
    """Instead of full training: an adapter keeps no moments and gradients of the base."""
    if not facts.trained.full:
        return
    lora = replace(facts, trained=count_trained(facts.arch, AdapterConfig()), dtype=facts.precision)
    if _fits(lora, 1, facts.arch.layers, memory_bytes):
        yield "adapter.kind: lora with checkpointing and train.micro_batch_size: 1"


def _fits(facts: Facts, rows: int, checkpointed: int, memory_bytes: int) -> bool:
    return fits(split_need(facts, rows, checkpointed), memory_bytes)
