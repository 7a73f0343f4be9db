"""How a server answers chats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunewright.host_memory import host_memory_bytes

Policy = Literal["wait", "cpu", "off"]


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """policy: `wait` answers on the machine's accelerator and refuses while a job trains on it, `cpu` answers
    on the CPU always, `off` never. memory_bytes: what loaded models may take; 0 is a quarter of the memory.
    requests: in the making at once; a project that has none is answered beyond it. wait_seconds: how long a
    request waits for its model before the client is told to come back."""

    policy: Policy = "wait"
    memory_bytes: int = 0
    requests: int = 256
    wait_seconds: float = 30.0

    @property
    def budget(self) -> int:
        """Bytes for loaded models."""
        return self.memory_bytes or host_memory_bytes() // 4

    @property
    def device(self) -> str:
        """As the model server takes it."""
        return "cpu" if self.policy == "cpu" else "auto"
