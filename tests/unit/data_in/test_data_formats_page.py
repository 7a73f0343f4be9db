import re
from pathlib import Path

import pytest

from tunewright.data.formats import FORMATS, detect_format, parse_row
from tunewright.data.raw_row import RawRow
from tunewright.data.strict_json import parse_json
from tunewright.types import SourceRef

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "formats.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
EXAMPLES = [
    (section.split("\n")[0], text)
    for section in SECTIONS
    for text in re.findall(r"```json\n(.*?)```", section, flags=re.DOTALL)
]


@pytest.mark.parametrize(("name", "text"), EXAMPLES)
def test_every_example_of_the_page_is_read(name: str, text: str) -> None:
    row = RawRow(parse_json(text), SourceRef("formats.md", 1))
    assert detect_format([row]) == name
    assert parse_row(row, name).source == row.source


def test_the_page_shows_every_format_with_its_fields() -> None:
    assert {name for name, _ in EXAMPLES} == set(FORMATS)
    page = PAGE.read_text(encoding="utf-8")
    for name, format_ in FORMATS.items():
        required = ", ".join(f"`{field}`" for field in format_.required)
        optional = ", ".join(f"`{field}`" for field in format_.optional)
        assert f"| `{name}` | {required} | {optional} |".replace("  |", " |") in page
