"""The edge at which a fault stops: the files of models are foreign and provoke any kind of exception."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

from tunewright.errors import TunewrightError

Result = TypeVar("Result")
log = logging.getLogger("tunewright.inference")


def attempt(work: Callable[[], Result], failed: Callable[[Exception], None]) -> Result | None:
    """The result of `work`; None when it failed, which `failed` is told."""
    try:
        return work()
    except Exception as error:
        if not isinstance(error, TunewrightError):
            log.error("a request failed", exc_info=error)
        failed(error)
        return None


def error_event(job_id: str, error: Exception) -> dict[str, Any]:
    """What the server is told of a request that cannot be answered."""
    where = None
    if isinstance(error, TunewrightError):
        # Where a model lies is nobody's business.
        where = None if error.where is None or os.path.isabs(error.where) else error.where
        text = str(error).partition("\nhint:")[0].removeprefix("" if where else f"{error.where}: ")
        code = error.code
    elif isinstance(error, MemoryError):
        text, code = "there is no memory left", "engine.out-of-memory"
    else:
        text, code = "the model server failed; its log says why", "internal"
    return {"event": "error", "id": job_id, "message": text, "code": code, "where": where}
