"""The NumPy engine with steps that last as long as LIGHT_STEP_SECONDS says, without using the processor."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy_engine
from tunewright.engines.protocol import EngineSpec

STEP_SECONDS = float(os.environ.get("LIGHT_STEP_SECONDS", "0"))


def build_engine(spec: EngineSpec) -> numpy_engine.NumpyEngine:
    """An engine for the model folder of the spec."""
    engine = numpy_engine.build_engine(spec)
    step = engine.optim_step

    def slow_step(**given: Any) -> Any:
        time.sleep(STEP_SECONDS)
        return step(**given)

    engine.optim_step = slow_step
    return engine
