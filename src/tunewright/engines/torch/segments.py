"""Segments of CUDA memory that grow: without them, what rows of one width free is too small for wider rows,
lies unused, and a run that fits by its sizes runs out of memory."""

from __future__ import annotations

import os
import platform
import sys

# torch reads the first of them that is set when it first takes memory of the device. From 2.11 on all of them
# may be set on CUDA; the last is the one without a backend in its name.
_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def use_growing_segments() -> None:
    """Tell torch to let segments grow, unless the environment says anything of its allocator. Must come
    before the process first uses CUDA; later it changes nothing."""
    if _can_grow() and not any(name in os.environ for name in _VARIABLES):
        os.environ[_VARIABLES[-1]] = "expandable_segments:True"


def _can_grow() -> bool:
    """Windows has no such segments, and under WSL some drivers fail at the first of them."""
    return sys.platform == "linux" and "microsoft" not in platform.release().lower()
