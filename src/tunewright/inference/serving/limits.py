"""What the model server may take from the machine, whatever a model's files make it do."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

from tunewright.engines.registry import detect_device, resolve_engine

WORKING_BYTES = 6 * 2**30
"""Libraries, the weights while they are read, and what one forward pass needs besides."""


def limit_process(device: str, memory_bytes: int) -> None:
    """No core files, and on a CPU no more data in memory than models, caches and work need."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A GPU's driver maps far more than it uses. Only Linux counts what is written, not what is mapped.
    if sys.platform == "linux" and detect_device(resolve_engine("auto"), device).device == "cpu":
        with suppress(ValueError, OSError):
            limit = memory_bytes + WORKING_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
