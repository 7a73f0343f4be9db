"""Rows of a run: as asked for, or less full where the engine proved no more."""

from __future__ import annotations

import pytest

from tunewright.engines.protocol import EngineFacts
from tunewright.run.plan import Plan
from tunewright.run.row_layout import build_shape, describe_layout, settle_plan
from tunewright.types import RowLayout


def _plan(layout: RowLayout) -> Plan:
    return Plan.model_construct(layout=layout, layout_reason="", micro_batch_size=4)


def _facts(layout: RowLayout) -> EngineFacts:
    reason = "" if layout == "packed" else "it leaks"
    return EngineFacts("torch", "cpu", "", "sdpa", 1, 1, {}, layout=layout, layout_reason=reason)


@pytest.mark.parametrize(
    ("asked", "taken", "layout", "rows"),
    [
        ("packed", "packed", "packed", 4),
        ("packed", "padded", "padded", 4),
        ("packed", "single", "single", 1),
        ("padded", "packed", "padded", 4),
        ("padded", "single", "single", 1),
    ],
)
def test_rows_are_no_fuller_than_asked_and_than_proved(asked, taken, layout, rows) -> None:
    plan = settle_plan(_plan(asked), _facts(taken))
    assert (plan.layout, plan.micro_batch_size) == (layout, rows)
    assert plan.layout_reason == ("" if asked == layout else "it leaks")
    shape = build_shape(plan.micro_batch_size, 64, plan.layout, pad_id=0)
    assert (shape.packing, shape.padding) == (layout == "packed", layout != "single")


def test_the_plan_says_what_was_changed_and_why() -> None:
    assert describe_layout("padded", "") == "padded"
    assert describe_layout("padded", "it leaks").startswith("one document a row, padded (")
    assert "it leaks" in describe_layout("single", "it leaks")
