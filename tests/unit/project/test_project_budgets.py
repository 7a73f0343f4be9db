"""What the code may grow to. Whoever needs more changes the number here, in the open."""

from __future__ import annotations

import ast
import re
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunewright.config.settings import list_settings

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for name in ("src", "scripts", "docs") for path in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
SETTINGS = Path(__file__).with_name("config_fields.txt")

FILE_LINES = 400
MEDIAN_FILE_LINES = 150
FUNCTION_LINES = 60
LOOP_LINES = 100
CONFIG_FIELDS = 120
EXAMPLE_LINES = 30
# Comments in src that switch a check off. Lower the number when one goes; a new one needs a good reason.
IGNORES = 13

IGNORE = re.compile(r"#\s*(noqa|type: ignore|pyright: ignore|ruff: noqa|pyright: )")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_source_file_is_long() -> None:
    lengths = {shown(path): len(lines_of(path)) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > FILE_LINES} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_FILE_LINES


def test_no_function_is_long() -> None:
    long = {
        f"{shown(path)} {node.name}": length
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


def test_the_loop_is_one_page() -> None:
    assert len(lines_of(ROOT / "src/tunewright/train/loop.py")) <= LOOP_LINES


def test_every_setting_is_meant() -> None:
    settings = sorted(setting.path for setting in list_settings() if not setting.section)
    assert settings == lines_of(SETTINGS), f"a setting came or went: say so in {shown(SETTINGS)}"
    assert len(settings) <= CONFIG_FIELDS


def test_fewer_checks_are_switched_off_not_more() -> None:
    found = [
        f"{shown(path)}:{token.start[0]}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "src")
        for token in comments(path)
        if IGNORE.search(token.string)
    ]
    assert len(found) <= IGNORES, "\n".join(found)
    assert len(found) == IGNORES, f"one went: set IGNORES to {len(found)}"


def comments(path: Path) -> Iterator[tokenize.TokenInfo]:
    with path.open("rb") as file:
        yield from (token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT)


def test_every_file_has_a_name_that_says_what_is_in_it() -> None:
    vague = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)")
    assert [shown(path) for path in (*SOURCES, *TESTS) if vague.search(path.stem)] == []


def test_texts_are_finished() -> None:
    files = (*SOURCES, *TESTS, *PAGES, *(ROOT / "examples").rglob("*.yaml"), ROOT / "Makefile")
    found = [
        f"{shown(path)}:{number}: {line.strip()}"
        for path in files
        if path != Path(__file__)
        for number, line in enumerate(lines_of(path), start=1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_unfinished_lines_are_seen() -> None:
    assert UNFINISHED.search("# TODO: later")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_is_for(path: Path) -> None:
    lines = lines_of(path)
    assert len(lines) <= EXAMPLE_LINES
    assert lines[0].startswith("# ")
