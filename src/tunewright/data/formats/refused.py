"""Rows that are not supervised text and would train on the wrong thing if read as such."""

from __future__ import annotations

from collections.abc import Mapping

from tunewright.errors import DataError

PREFERENCE_KEYS: tuple[tuple[str, ...], ...] = (
    ("chosen", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("kto_tag",),
    ("prompt", "completion", "label"),
)
MEDIA_KEYS = ("images", "image", "audios", "audio", "videos", "video")


def check_supervised(fields: Mapping[str, object], where: str) -> None:
    """Raise DataError for preference rows and rows with images, audio or video."""
    for keys in PREFERENCE_KEYS:
        if all(fields.get(key) is not None for key in keys) and _is_verdict(fields.get("label"), keys):
            raise DataError(
                "this looks like preference data, which cannot be trained on yet",
                where=where,
                got=f"a row with {' and '.join(f'`{key}`' for key in keys)}",
                expected="rows with one answer each, see docs/reference/formats.md",
                hint="to train on the better answers alone, write them out as messages or alpaca rows",
                code="data.preference",
            )
    for key in MEDIA_KEYS:
        if fields.get(key):
            raise DataError(
                "this row has images, audio or video, which cannot be trained on yet",
                where=where,
                got=f"`{key}`",
                expected="text only",
                code="data.not-text",
            )


def _is_verdict(label: object, keys: tuple[str, ...]) -> bool:
    # A `label` that is not true or false is a class or a note, not a verdict on the completion.
    return "label" not in keys or isinstance(label, bool)
