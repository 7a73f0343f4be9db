"""A real engine with faults put into chosen calls, for runs in this process or, as a script, for commands.

As a script: FAULTS holds JSON {"call number": "fault"}; the arguments are those of `tunewright`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunewright.engines.protocol import Engine, EngineSpec
from tunewright.engines.registry import build_engine
from tunewright.errors import EngineOutOfMemory
from tunewright.types import Batch


class FaultyEngine:
    """Passes everything on; forward_backward number n (from 1) gets its fault: `nan` gradients, a `spike` of
    a thousand times the gradient, `memory` (an out-of-memory after the real work), or a `hang`."""

    def __init__(self, engine: Engine, faults: Mapping[int, str]) -> None:
        self._engine, self._faults = engine, faults
        self.micro_batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward_backward(self, micro_batches: Sequence[Batch], *, denominator: float) -> None:
        self.micro_batches.append(len(micro_batches))
        fault = self._faults.get(len(self.micro_batches))
        if fault == "hang":
            time.sleep(600)
        scale = {"nan": float("nan"), "spike": 1e-3}.get(fault or "", 1.0)
        self._engine.forward_backward(micro_batches, denominator=denominator * scale)
        if fault == "memory":
            raise EngineOutOfMemory("no memory left on cpu: planted", code="engine.out-of-memory")


def faulty_builder(faults: Mapping[int, str]) -> Callable[[str, EngineSpec], FaultyEngine]:
    """A build_engine whose engines have these faults."""
    return lambda name, spec: FaultyEngine(build_engine(name, spec), faults)


if __name__ == "__main__":
    from tunewright.cli.main import main
    from tunewright.run import build

    planted = {int(call): fault for call, fault in json.loads(os.environ["FAULTS"]).items()}
    build.build_engine = faulty_builder(planted)  # type: ignore[assignment]
    main()
