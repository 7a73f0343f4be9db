"""bitsandbytes, imported when something asks for it and nowhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

INSTALL_HINT = "pip install bitsandbytes"


def is_installed() -> bool:
    """Whether bitsandbytes is there; it is not for every platform."""
    return find_spec("bitsandbytes") is not None


@cache
def functional() -> ModuleType:
    """bitsandbytes.functional. Importing it takes seconds."""
    with _without_fetched_kernels():
        return import_module("bitsandbytes.functional")


@contextmanager
def _without_fetched_kernels() -> Iterator[None]:
    """While it is imported, bitsandbytes fetches compiled code from the hub where the package `kernels` is
    installed, and logs a warning where it is not. Nothing that is fetched runs here."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    modules: dict[str, Any] = sys.modules
    before, silent = modules.get("kernels"), logger.disabled
    modules["kernels"] = None
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = silent
        if before is None:
            del modules["kernels"]
        else:
            modules["kernels"] = before
