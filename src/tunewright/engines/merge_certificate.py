"""What a merged export says of itself, whichever engine wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tunewright.errors import EngineError


def state_difference(
    folder: Path, *, measured: float, bound: float, rows: int, tokens: int
) -> Mapping[str, object]:
    """The certificate of a merged model. measured, bound: root mean squares of differences of
    log-probabilities, in nats.

    Raises EngineError (`engine.certificate`) beyond the bound, and where something was not a number.
    """
    if not measured <= bound:
        raise EngineError(
            "the merged model does not compute what the adapter does",
            where=str(folder),
            got=f"log-probabilities off by {measured:.2e}",
            expected=f"at most {bound:.2e}",
            hint="export the adapter without merging, or train with model.dtype: fp32",
            code="engine.certificate",
        )
    return {
        "kind": "merged",
        "compared": "log-probabilities of next tokens",
        "rows": rows,
        "tokens": tokens,
        "difference": measured,
        "bound": bound,
    }


def state_nothing_compared(reason: str) -> Mapping[str, object]:
    """The certificate of a merged model that was written whole, but could not be loaded again beside what is
    in memory."""
    return {"kind": "merged", "compared": "nothing", "reason": reason}
