"""The loss weight of a turn as OpenAI data has it: 0 or 1, on assistant turns."""

from __future__ import annotations

from tunewright.data.formats.field import Field
from tunewright.types import Role


def read_weight(field: Field, role: Role) -> float | None:
    """0.0 or 1.0 for an assistant turn, None when absent. A weight of 0 on other turns says nothing new."""
    value = field.value
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise field.wrong_type("0 or 1")
    if value not in (0, 1):
        raise field.error("is not a weight", code="data.bad-weight", got=str(value), expected="0 or 1")
    if role == "assistant":
        return float(value)
    if value:
        raise field.error(
            f"is 1 on a {role} turn", code="data.bad-weight", expected="a weight only on assistant turns"
        )
    return None
