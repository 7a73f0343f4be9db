"""Refuses a pass that will not fit, from what earlier passes took.

An MLX process that runs out of memory is ended by the system, on a CPU as on Metal, so there is nothing to
catch: the only safe answer is not to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from tunewright.engines.mlx.device import out_of_memory


class PassMemory:
    """Peak bytes so far, and the most that a pass took per token of its rows."""

    def __init__(self, device: str, limit_bytes: int) -> None:
        self._device, self._limit = device, limit_bytes
        self._bytes_per_token = 0.0
        self.peak_bytes = mx.get_peak_memory()

    @contextmanager
    def watched(self, tokens: int) -> Iterator[None]:
        """Run a pass over `tokens` positions inside. Raises EngineOutOfMemory instead of starting it."""
        before = mx.get_active_memory()
        expected = before + self._bytes_per_token * tokens
        if expected > self._limit:
            raise out_of_memory(
                self._device,
                f"{tokens:,} tokens would take it to {expected / 2**30:.1f} of {self._limit / 2**30:.1f} GiB",
            )
        mx.reset_peak_memory()
        yield
        peak = mx.get_peak_memory()
        self.peak_bytes = max(self.peak_bytes, peak)
        self._bytes_per_token = max(self._bytes_per_token, (peak - before) / tokens)
