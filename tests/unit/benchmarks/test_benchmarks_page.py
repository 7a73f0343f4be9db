"""The tables of docs/benchmarks.md are those of the result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tables import HERE, NOT_YET, PAGE, TABLES, fill

CASE = {
    "label": "7B", "model": "tiny", "tokens_per_second": 18_500.4, "mfu": 0.71, "peak_bytes": 30 * 2**30,
    "details": {"path": "fast", "attention": "varlen", "profile": {"shares": {"idle": 0.25}, "top": []}},
}  # fmt: skip
GPU = {
    "origin": {"device": "H200", "cores": 16, "commit": "abc", "versions": {"torch": "2.13.0"}},
    "matmul": {"peak": 790e12},
    "cases": {"7b": CASE, "nf4": {"label": "nf4", "left_out": "no time was left"}},
    "bars": {"tokens/s": {"least": 18_000, "figure": 18_500.4, "met": True},
             "0.5B": {"least": 1e5, "figure": None, "met": False}},
}  # fmt: skip


def test_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page, HERE) == page, "run `python benchmarks/tables.py`"


def test_every_table_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->\n" in page for name in TABLES)


def test_a_table_shows_figures_verdicts_and_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps(GPU))
    page = fill("before\n<!-- gpu -->\nold\n<!-- end -->\nafter\n", tmp_path)
    assert page.startswith("before\n<!-- gpu -->\nH200, 16 cores, commit abc, torch 2.13.0.\n")
    assert "| 7B | 18,500 | 71% | 30.0 | fast, varlen |" in page
    assert "| nf4 | left out: no time was left |" in page
    assert "| tokens/s | 18,500.40 | 18000 | met |" in page
    assert "| 0.5B | not judged | 100000 | **missed** |" in page
    assert "Device time of 7B: idle 25%." in page
    assert "old" not in page


def test_without_a_result_the_page_says_so(tmp_path: Path) -> None:
    page = fill("<!-- gpu -->\n<!-- end -->\n", tmp_path)
    assert page == f"<!-- gpu -->\n{NOT_YET}\n<!-- end -->\n"


def test_a_table_that_nobody_makes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fill("<!-- tpu -->\n<!-- end -->\n", tmp_path)
