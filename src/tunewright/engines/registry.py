"""Engines by name. Each lives in one folder and is imported only when asked for.

To add one: give its folder an `engine.py` with `build_engine(spec)` and a `device.py` with
`detect_device(device)`, add one line to ENGINES, and run tests/contract on it.
"""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import cast

from tunewright.engines.protocol import DeviceFacts, Engine, EngineSpec
from tunewright.errors import EngineError

ENGINES: dict[str, str] = {"torch": "tunewright.engines.torch", "mlx": "tunewright.engines.mlx"}
"""Name in the run file → package of the engine."""

_REQUIRES: dict[str, tuple[str, ...]] = {"torch": ("torch",), "mlx": ("mlx", "mlx_lm")}
"""Name in the run file → the libraries that the engine stands on. The first is also the name of the extra."""


def resolve_engine(requested: str) -> str:
    """Name of the engine that `requested` means. Raises EngineError for an unknown name.

    `auto` is mlx on Apple silicon where it is installed, else torch.
    """
    if requested == "auto":
        return "mlx" if _is_apple_silicon() and _is_installed("mlx") else "torch"
    if requested not in ENGINES:
        raise EngineError(
            "no such engine",
            where="engine",
            got=requested,
            expected=f"auto or one of {', '.join(sorted(ENGINES))}",
            code="engine.unknown",
        )
    return requested


def detect_device(name: str, device: str) -> DeviceFacts:
    """What `device` offers to engine `name`; `auto` takes the fastest.

    Raises EngineError when the engine is not installed or the device is not there.
    """
    return cast(DeviceFacts, _load_module(name, "device").detect_device(device))


def import_engine(name: str) -> None:
    """Load the libraries of engine `name`, so that memory taken from now on is a run's own."""
    _load_module(name, "engine")


def build_engine(name: str, spec: EngineSpec) -> Engine:
    """Load the model of `spec` into engine `name`, ready to train."""
    return cast(Engine, _load_module(name, "engine").build_engine(spec))


def _load_module(name: str, module: str) -> ModuleType:
    engine = resolve_engine(name)
    for library in _REQUIRES[engine]:
        if find_spec(library) is None:
            raise EngineError(
                f"the {engine} engine needs {library}, which is not installed",
                where="engine",
                hint=f"pip install 'tunewright[{_REQUIRES[engine][0]}]'",
                code="engine.not-installed",
            )
    return import_module(f"{ENGINES[engine]}.{module}")


def _is_apple_silicon() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _is_installed(engine: str) -> bool:
    return all(find_spec(library) is not None for library in _REQUIRES[engine])
