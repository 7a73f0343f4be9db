"""docs/concepts/numerics.md lists the rows of the equality table, with their tolerances."""

from __future__ import annotations

import re
from pathlib import Path

from equality_table import EQUALITIES

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "numerics.md"


def test_the_page_lists_every_row_with_its_tolerance() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([^|]+) \| (\de[-+]\d\d) \|", page, re.MULTILINE)
    assert listed == [(equality.name, f"{equality.tolerance:.0e}") for equality in EQUALITIES]
