"""Compute the gradients of micro-batches for what it tells of memory, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.engines.protocol import Engine
from tunewright.types import Batch


def rehearse(engine: Engine, micro_batches: Sequence[Batch]) -> None:
    """One forward and backward pass over each, as in a step, with nothing of it kept: training goes on bit
    for bit as it would have. For between two optimizer steps.

    The state is copied to the host meanwhile, as for a checkpoint. Raises EngineOutOfMemory.
    """
    weight = sum(float(batch.weights_BT.sum(dtype="float64")) for batch in micro_batches)
    before = engine.snapshot()
    try:
        engine.forward_backward(micro_batches, denominator=weight)
    finally:
        engine.restore(before)
