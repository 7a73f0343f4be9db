"""What the optimizer keeps of each array that trains, by the rules of engines/torch/lean_optimizer.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_8BIT = 4096
SMALLEST_PAGED = 100_000
"""Numbers of an array from which its moments are in 8 bits, or paged: those of bitsandbytes."""
BLOCK_8BIT = 256
"""Numbers that share a scale under 8 bits."""

_FP32 = 4


@dataclass(frozen=True, slots=True)
class MomentBytes:
    """held: of the device. paged: what CUDA moves to the host when the device is full."""

    held: int
    paged: int


def count_moments(sizes: Sequence[int], optimizer: str) -> MomentBytes:
    """Bytes of both moments of arrays of these sizes. optimizer: as `train.optimizer` names it."""
    if optimizer == "adamw_8bit":
        return MomentBytes(sum(2 * _eight_bit_bytes(size) for size in sizes), 0)
    paged = sum(size for size in sizes if size >= SMALLEST_PAGED) if optimizer == "paged_adamw" else 0
    return MomentBytes(2 * _FP32 * (sum(sizes) - paged), 2 * _FP32 * paged)


def _eight_bit_bytes(size: int) -> int:
    return size + _FP32 * -(-size // BLOCK_8BIT) if size >= SMALLEST_8BIT else _FP32 * size
