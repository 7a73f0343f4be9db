"""Raw text: all of it is trained."""

from __future__ import annotations

from tunewright.data.formats.field import Field
from tunewright.types import TextRow


def parse_text(row: Field) -> TextRow:
    """One piece of text."""
    text = row.child("text")
    if not text.text().strip():
        raise text.error("is empty", code="data.no-answer", expected="the text to learn")
    return TextRow(((text.text(), 1.0),), row.source)
