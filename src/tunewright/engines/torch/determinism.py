"""`train.deterministic`: only operations that give the same bits each time, inside the engine's calls.

torch keeps the switch for the whole process; what else runs in it (generation, another engine) did not ask.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunewright.errors import EngineError

_REFUSED = re.compile(
    r"(\S+) does not have a deterministic implementation|not deterministic because it uses (\S+)"
)


@contextmanager
def only_deterministic(on: bool) -> Iterator[None]:
    """Inside, an operation that does not repeat bit by bit raises EngineError; nothing changes when `on` is
    false."""
    if not on:
        yield
        return
    # cuBLAS reads this when it is first used and is not deterministic without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        raise EngineError(
            "an operation of this model has no form that gives the same bits each time",
            where="train.deterministic",
            got=refused[1] or refused[2],
            hint="set train.deterministic: false, or device: cpu, where more operations have one",
            code="engine.not-deterministic",
        ) from error
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
