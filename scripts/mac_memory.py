"""A child of mac_check.py: larger and larger passes until the MLX engine refuses one. Prints a line of JSON.

Usage: python scripts/mac_memory.py DEVICE [LIMIT_BYTES]. An MLX process that fills the memory of a Mac is
ended by the system, so the engine must refuse in time. The limit is set low, so that the probe is quick and
the machine stays usable.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from tunewright.config.schema import AdapterConfig
from tunewright.engines.mlx.device import detect_device, usable_bytes
from tunewright.engines.mlx.memory import PassMemory
from tunewright.engines.protocol import Engine, EngineSpec
from tunewright.engines.registry import build_engine
from tunewright.errors import EngineOutOfMemory
from tunewright.models.resolve import resolve_model
from tunewright.types import Batch

LIMIT_BYTES = 2 * 2**30
MOST_ROWS = 2**14


def main() -> None:
    """Print what the device offers, where the limit is, and at which size a pass was refused."""
    device, limit = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else LIMIT_BYTES
    facts = detect_device(device)
    engine = build_engine("mlx", _spec(resolve_model("builtin:tiny").folder, device))
    # The engine's own limit is the machine's; a person should not have to wait until that is full.
    setattr(engine, "_training", PassMemory(device, limit))  # noqa: B010 - a probe of the inside
    refused = _rows_refused(engine)
    result = {
        "device": facts.name,
        "working_set_bytes": facts.memory_bytes,
        "usable_bytes": usable_bytes(facts),
        "probe_limit_bytes": limit,
        "rows_refused": refused,
        "peak_bytes": mx.get_peak_memory(),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def _rows_refused(engine: Engine) -> int | None:
    """Documents of 256 tokens in the first micro-batch that was refused; None when none was."""
    rows = 1
    while rows <= MOST_ROWS:
        try:
            engine.forward_backward([_batch(rows)], denominator=255.0 * rows)
        except EngineOutOfMemory:
            return rows
        engine.discard_gradients()
        rows *= 2
    return None


def _batch(rows: int) -> Batch:
    tokens_BT = np.full((rows, 256), 7, np.int32)
    positions_BT = np.broadcast_to(np.arange(256, dtype=np.int32), tokens_BT.shape)
    return Batch(tokens_BT, positions_BT, np.ones(tokens_BT.shape, np.float32), ((256,),) * rows)


def _spec(folder: Path, device: str) -> EngineSpec:
    return EngineSpec(
        model_folder=folder, model_name="builtin:tiny", device=device, dtype="fp32", precision="fp32",
        attention="sdpa", adapter=AdapterConfig(), adapter_folder=None, optimizer="adamw", weight_decay=0.0,
        betas=(0.9, 0.999), epsilon=1e-8, max_grad_norm=1.0, checkpointed_layers=0,
        deterministic=False, seed=0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
