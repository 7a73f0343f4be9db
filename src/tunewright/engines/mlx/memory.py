"""Refuses a pass that will not fit, from what earlier passes took.

An MLX process that runs out of memory is ended by the system, on a CPU as on Metal, so there is nothing to
catch: the only safe answer is not to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from tunewright.engines.mlx.device import out_of_memory

# Tokens of a document at which the scores of attention take about as much as all else of a layer.
_ATTENTION_WIDTH = 1024
# Passes of so many times the work are foretold. Gradients and buffers do not grow with the work, so that a
# small pass would foretell far too much of a large one.
_FARTHEST = 4


class PassMemory:
    """What passes of one kind took. work: of the largest so far; any of less takes no more."""

    def __init__(self, device: str, limit_bytes: int) -> None:
        self._device, self._limit = device, limit_bytes
        self._work, self._bytes = 0.0, 0
        self.peak_bytes = mx.get_peak_memory()

    def foretells(self, rows: int, width: int) -> bool:
        """Whether it is known what a pass over `rows` documents of `width` tokens takes."""
        return _work(rows, width) <= _FARTHEST * self._work

    @contextmanager
    def watched(self, rows: int, width: int) -> Iterator[None]:
        """Run a pass inside. Raises EngineOutOfMemory instead of starting it; one that is not foretold is
        let through."""
        work, before = _work(rows, width), mx.get_active_memory()
        if self.foretells(rows, width):
            expected = before + self._bytes * max(1.0, work / self._work)
            if expected > self._limit:
                raise out_of_memory(
                    self._device,
                    f"{rows * width:,} tokens would take it to {expected / 2**30:.1f} of "
                    f"{self._limit / 2**30:.1f} GiB",
                )
        mx.reset_peak_memory()
        yield
        peak = mx.get_peak_memory()
        self.peak_bytes = max(self.peak_bytes, peak)
        self._work, self._bytes = max(self._work, work), max(self._bytes, peak - before)


def _work(rows: int, width: int) -> float:
    """What the memory of a pass grows with at most."""
    return rows * width * (1 + width / _ATTENTION_WIDTH)
