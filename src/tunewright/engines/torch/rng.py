"""The engine's own random state. Dropout draws from torch's global generators, so the engine swaps its
state in for the time of a call and leaves the global ones as it found them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class RandomState:
    """State of the CPU generator and of the device's, owned by one engine."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        before = self._read()
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[_index(device)].manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        self.states = self._read()
        self._write(before)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this state inside; an exception puts it back to where it was before the call."""
        outside = self._read()
        self._write(self.states)
        try:
            yield
            self.states = self._read()
        finally:
            self._write(outside)

    def _read(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        elif self._device.type == "mps":
            states["mps"] = torch.mps.get_rng_state()
        return states

    def _write(self, states: Mapping[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self._device)
        elif "mps" in states:
            torch.mps.set_rng_state(states["mps"])


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
