"""Reading an EngineState that may be of another run: one complaint for all that does not fit."""

from __future__ import annotations

from collections.abc import Iterable

from tunewright.errors import CheckpointError
from tunewright.types import EngineState


def read_number(state: EngineState, key: str) -> float:
    """A number of the state. Raises CheckpointError (`checkpoint.engine-mismatch`)."""
    value = state.values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise mismatch(f"`{key}` is not in the saved state", repr(value))
    return value


def mismatch(what: str, got: str) -> CheckpointError:
    """The error for a state that this run cannot go on from."""
    return CheckpointError(
        what,
        where="engine state",
        got=got,
        hint="resume with the settings the run was started with",
        code="checkpoint.engine-mismatch",
    )


def list_first(names: Iterable[str]) -> str:
    """Three of the names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
