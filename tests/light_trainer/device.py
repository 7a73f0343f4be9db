"""A CPU, whatever the machine has."""

from __future__ import annotations

from tunewright.engines.protocol import DeviceFacts
from tunewright.host_memory import host_memory_bytes


def detect_device(device: str) -> DeviceFacts:
    """Facts of the CPU."""
    del device
    return DeviceFacts("cpu", "light trainer", host_memory_bytes(), ("fp32",))
