"""Small checkpoints whose every byte follows from the step, for the tests of the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tunewright.checkpoint.background import BackgroundWriter
from tunewright.checkpoint.manifest import Metric
from tunewright.checkpoint.store import CheckpointStore, LoadedCheckpoint, SavedCheckpoint
from tunewright.types import Array, EngineState

IDENTITY = {"config_hash": "c0ffee", "data_hash": "da7a", "versions": {"tunewright": "1"}, "world_size": 1}


def state_of(step: int, kilobytes: int = 8) -> EngineState:
    """Arrays of several types, and random state as JSON, all functions of the step."""
    noise = b"".join(hashlib.sha512(b"%d %d" % (step, index)).digest() for index in range(kilobytes * 16))
    arrays = {
        "model.a": Array("F32", (kilobytes, 128), noise[: kilobytes * 512]),
        "model.b": Array("BF16", (kilobytes, 256), noise[kilobytes * 512 :]),
        "count": Array("U8", (1,), bytes([step % 256])),
        "empty": Array("F32", (0, 3), b""),
    }
    return EngineState(arrays, {"rng": [step, 2**63, "ü"], "scale": 0.1 * step + 1e-7})


def save(
    store: CheckpointStore, step: int, metric: float | Metric | None = None, **identity: object
) -> SavedCheckpoint:
    """metric: a bare number is a held-out loss."""
    ranked = Metric("valid_loss", metric) if isinstance(metric, float) else metric
    return store.save(step, state_of(step), {"step": step}, {**IDENTITY, **identity}, ranked)


def start_save(writer: BackgroundWriter, step: int) -> float:
    """The same save in the background; returns the seconds waited."""
    return writer.save(step, state_of(step), {"step": step}, IDENTITY, None)


def is_exact(loaded: LoadedCheckpoint) -> bool:
    """Whether what was loaded is byte for byte what was saved at that step."""
    expected = state_of(loaded.step)
    arrays = {name: (a.dtype, a.shape, bytes(a.data)) for name, a in loaded.engine.arrays.items()}
    return (
        arrays == {name: (a.dtype, a.shape, bytes(a.data)) for name, a in expected.arrays.items()}
        and loaded.engine.values == expected.values
        and loaded.run_state == {"step": loaded.step}
    )


def new_store(folder: Path, keep: int = 3, *, keep_best: bool = False) -> CheckpointStore:
    return CheckpointStore(folder / "checkpoints", keep=keep, keep_best=keep_best)
