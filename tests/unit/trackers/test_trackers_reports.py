"""Several steps told as one: nothing is counted twice, left out or made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.trackers.protocol import STEP_METRICS, Event
from tunewright.trackers.reports import MEANS, Reports, merge_steps


def _step(step: int, **fields: float | None) -> Event:
    return {"type": "step", "step": step, **dict.fromkeys(STEP_METRICS, 1.0), "global_step": step, **fields}


def _steps_told(every: int, events: list[Event]) -> list[tuple[int, float]]:
    """(step, mean loss) of each report; the loss of a step is its number."""
    reports = Reports(every)
    return [(told["step"], told["loss"]) for event in events if (told := reports.take(event))]


def _numbered(*steps: int) -> list[Event]:
    return [_step(step, loss=float(step)) for step in steps]


def test_a_report_has_means_of_its_steps_and_the_rest_of_the_last():
    first = _step(9, loss=2.0, learning_rate=1e-3, epoch=0.5, loss_tokens=10, skipped_steps=0)
    last = _step(10, loss=1.0, learning_rate=2e-3, epoch=0.6, loss_tokens=30, skipped_steps=1)
    told = merge_steps([first, last])
    assert (told["loss"], told["loss_tokens"]) == (1.5, 20)
    assert [told[name] for name in ("learning_rate", "epoch", "skipped_steps", "global_step", "step")] == [
        *(2e-3, 0.6, 1, 10, 10)
    ]
    assert told.keys() == last.keys()
    assert set(MEANS) <= STEP_METRICS.keys()


def test_tokens_per_second_are_all_tokens_over_all_seconds():
    fast = _step(1, tokens_per_second=1000, step_seconds=1)
    slow = _step(2, tokens_per_second=100, step_seconds=9)
    assert merge_steps([fast, slow])["tokens_per_second"] == pytest.approx((1000 + 900) / 10)


def test_a_figure_that_was_not_finite_once_is_not_made_up():
    told = merge_steps([_step(1, loss=None, gradient_norm=2.0), _step(2, loss=1.0, gradient_norm=4.0)])
    assert (told["loss"], told["gradient_norm"]) == (None, 3.0)


@given(st.integers(1, 12), st.integers(1, 60))
def test_every_step_is_in_one_report(every: int, total: int):
    told = _steps_told(every, [*_numbered(*range(1, total + 1)), {"type": "run_finished", "step": total}])
    ends = [step for step, _ in told]
    assert ends == sorted({*range(every, total + 1, every), total})
    starts = [0, *ends]
    assert [mean for _, mean in told] == [(a + 1 + b) / 2 for a, b in zip(starts, ends, strict=False)]


def test_steps_that_come_again_count_once():
    again = [*_numbered(1, 2, 3), {"type": "resumed", "step": 1}, *_numbered(2, 3, 4)]
    assert _steps_told(4, again) == [(4, 2.5)]
    back = [*_numbered(1, 2, 3), {"type": "rolled_back", "step": 1}, *_numbered(2), _step(4, loss=12.0)]
    assert _steps_told(4, back) == [(4, 5.0)]


def test_other_events_are_no_reports():
    assert _steps_told(1, [{"type": "evaluation", "step": 3, "valid_loss": 1.0}]) == []
    assert _steps_told(5, [{"type": "run_finished", "step": 0}]) == []


def test_one_step_stays_as_it_is():
    step = _step(3, loss=0.1, tokens_per_second=0.3, step_seconds=0.7)
    assert Reports(1).take(step) is step
