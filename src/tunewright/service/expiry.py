"""The form fields of an upload that say when its file is deleted: OpenAI's two, or both as one JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from tunewright.service.faults import ApiError, bad_value, unknown_field

SHORTEST_LIFE, LONGEST_LIFE = 3600, 2_592_000
AFTER = "expires_after"
PARTS = ("anchor", "seconds")


def read_life(fields: Mapping[str, str]) -> int | None:
    """Seconds that the file of this form lives; None for ever. Raises ApiError 400."""
    given: dict[str, Any] = {
        name: fields[f"{AFTER}[{name}]"] for name in PARTS if f"{AFTER}[{name}]" in fields
    }
    if AFTER in fields:
        if given:
            raise bad_value(f"Give '{AFTER}' as one text or as two fields, not both", AFTER)
        given = _read_text(fields[AFTER])
    if not given:
        return None
    if given.get("anchor") != "created_at":
        raise bad_value(f"'{AFTER}[anchor]' must be 'created_at'", f"{AFTER}.anchor")
    seconds = _whole_number(given.get("seconds"))
    if not SHORTEST_LIFE <= seconds <= LONGEST_LIFE:
        raise bad_value(
            f"'{AFTER}[seconds]' must be a whole number from {SHORTEST_LIFE} to {LONGEST_LIFE}",
            f"{AFTER}.seconds",
        )
    return seconds


def _read_text(text: str) -> dict[str, Any]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise _no_object() from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _no_object()
    found = cast("dict[str, Any]", value)
    for name in found:
        if name not in PARTS:
            raise unknown_field(f"{AFTER}.{name}")
    # One that says nothing is a mistake, not `never`.
    return found or {"anchor": None}


def _whole_number(value: object) -> int:
    """The number; 0 for what is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    # Python reads no number of thousands of digits.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    return 0


def _no_object() -> ApiError:
    return bad_value(f'\'{AFTER}\' must be JSON such as {{"anchor": "created_at", "seconds": 3600}}', AFTER)
