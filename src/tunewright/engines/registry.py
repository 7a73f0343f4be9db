"""Engines by name. Each lives in one folder and is imported only when asked for.

To add one: give its folder an `engine.py` with `build_engine(spec)` and a `device.py` with
`detect_device(device)`, add one line to ENGINES, and run tests/contract on it.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import cast

from tunewright.engines.protocol import DeviceFacts, Engine, EngineSpec
from tunewright.errors import EngineError

ENGINES: dict[str, str] = {"torch": "tunewright.engines.torch"}
"""Name in the run file → package of the engine."""

_REQUIRES: dict[str, str] = {"torch": "torch"}
"""Name in the run file → the library that the engine stands on, which is also the name of the extra."""


def resolve_engine(requested: str) -> str:
    """Name of the engine that `requested` means; `auto` is torch. Raises EngineError for an unknown name."""
    if requested == "auto":
        return "torch"
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
    """What `device` (auto, cpu, mps, cuda, cuda:N) offers to engine `name`; `auto` takes the fastest.

    Raises EngineError when the engine is not installed or the device is not there.
    """
    return cast(DeviceFacts, _load_module(name, "device").detect_device(device))


def build_engine(name: str, spec: EngineSpec) -> Engine:
    """Load the model of `spec` into engine `name`, ready to train."""
    return cast(Engine, _load_module(name, "engine").build_engine(spec))


def _load_module(name: str, module: str) -> ModuleType:
    engine = resolve_engine(name)
    try:
        return import_module(f"{ENGINES[engine]}.{module}")
    except ModuleNotFoundError as error:
        library = _REQUIRES[engine]
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise EngineError(
            f"the {engine} engine needs {library}, which is not installed",
            where="engine",
            hint=f"pip install 'tunewright[{library}]'",
            code="engine.not-installed",
        ) from error
