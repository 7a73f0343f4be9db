"""What the demo shows, and which questions it asks."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.cli.demo import held_out_rows
from tunewright.cli.demo_view import Answered, DemoView, plot, shown


def test_held_out_dates_are_in_no_training_row():
    from tunewright.assets.date_task import SAMPLE_ROWS, SAMPLE_SEED, date_rows

    trained = {answer for _, answer in date_rows(SAMPLE_SEED, SAMPLE_ROWS)}
    # The training seed is the hardest case: its first rows are all known.
    for seed in (SAMPLE_SEED, 123):
        rows = held_out_rows(seed, 100)
        assert len(set(rows)) == 100
        assert not trained & {answer for _, answer in rows}


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_plot_has_one_column_per_stretch_and_a_scale(values: list[float]):
    *rows, axis = plot(values, width=40, height=6)
    assert len(rows) == 6
    assert all(len(row) <= 7 + 40 for row in rows)
    # Every column stands on the foot of the plot.
    assert len(rows[-1]) == 7 + min(40, len(values))
    assert axis.endswith(str(len(values)))


def test_plot_falls_with_the_loss():
    rows = plot([4.0, 2.0, 1.0, 0.0], height=4)
    assert rows[0].endswith("│█")
    assert rows[1].endswith("│█")
    assert rows[2].endswith("│██")
    assert rows[3].endswith("│███▁")
    assert plot([]) == []


def test_answers_fit_on_a_line():
    assert shown("", 16) == "(nothing)"
    assert shown("a\nb\x00", 16) == "a·b·"
    assert shown("x" * 20, 16) == "x" * 15 + "…"


def _report() -> str:
    stream = io.StringIO()
    rows = [("May 3, 1999", "1999-05-03"), ("4 June 2001", "2001-06-04")]
    view = DemoView(stream)
    view.open(rows, 7, range(2000))
    view.base_score(rows, ["5 3 1999", "4"], 0.5)
    answered = [
        Answered(*rows[0], base="5 3 1999", tuned="1999-05-03"),
        Answered(*rows[1], base="4", tuned="2001-06-44"),
    ]
    view.close(answered, [2.0, 1.0], 61.0, Path("runs/demo/exports/final"))
    return stream.getvalue()


def test_report_in_a_pipe_is_plain_text_and_says_everything():
    text = _report()
    assert "\033" not in text
    for part in (
        "2,000 bundled examples",
        "2 other dates (seed 7)",
        "0 of 2 right",
        "✗ 5 3 1999",
        "✓ 1999-05-03",
        "✗ 2001-06-44  (right: 2001-06-04)",
        "base     0%",
        "tuned   50%",
        "61 seconds in all",
        "tunewright generate runs/demo/exports/final --prompt 'May 3, 1999'",
    ):
        assert part in text, part


def test_an_interrupted_demo_says_how_to_go_on():
    stream = io.StringIO()
    DemoView(stream).stopped(Path("runs/x"))
    assert "tunewright train --resume runs/x" in stream.getvalue()


@pytest.mark.parametrize("right", [True, False])
def test_only_the_exact_answer_counts(right: bool):
    answered = Answered("q", "1999-05-03", base="", tuned="1999-05-03" if right else "1999-05-03 ")
    assert answered.tuned_right is right
    assert not answered.base_right
