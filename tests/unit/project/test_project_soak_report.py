"""The figures of `make soak`, from events and samples made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from soak_report import Event, Sample, Span, build_report, save_inflation

MINUTE = 60.0


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def step(number: int, time: float, seconds: float = 1.0, attempt: int = 1) -> Event:
    fields = {"type": "step", "step": number, "attempt": attempt}
    return {**fields, "time": at(time), "step_seconds": seconds}


def checkpoint(number: int, time: float, stall: float, attempt: int = 1) -> Event:
    fields = {"type": "checkpoint", "step": number, "attempt": attempt}
    return {**fields, "time": at(time), "seconds": 0.5, "stall_seconds": stall}


def sample(attempt: int, time: float, **fields: Any) -> Sample:
    usual = {"rss_bytes": 1000, "handles": 9, "threads": 3, "disk_bytes": 5000, "log_bytes": int(time)}
    return Sample(attempt=attempt, time=time, **{**usual, **fields})


def soak(grow: float = 0.0, **late: Any):
    """Two attempts of 100 s: steps 1 to 90, then 81 to 170 after 10 s of start-up each."""
    events = [step(number, number + 10.0) for number in range(1, 91)]
    events += [step(number, number + 30.0, attempt=2) for number in range(81, 171)]
    events += [checkpoint(80, 90.2, 0.1), checkpoint(160, 190.2, 0.1, attempt=2)]
    samples = []
    for attempt, start in ((1, 0.0), (2, 100.0)):
        for tick in range(0, 100, 5):
            rss = 1000 + int(grow * tick) + 3 * (tick % 3 - 1) * (-1) ** attempt
            more = late if attempt == 2 else {}
            samples.append(sample(attempt, start + tick, rss_bytes=rss, **more))
    spans = [Span(1, 0.0, 100.0, "killed"), Span(2, 100.0, 200.0, "stopped")]
    return build_report(events, samples, spans, warm_up=20)


def test_useful_steps_count_once_and_start_up_costs() -> None:
    report = soak()
    assert (report.useful_steps, report.lost_steps, report.kills, report.attempts) == (170, 10, 1, 2)
    assert report.effective == pytest.approx(0.85)
    assert report.first_step_median_seconds == pytest.approx(11.0)
    assert report.checkpoint_cost == pytest.approx(0.2 / 200)
    assert [line[:24] for line in report.failures()] == ["effective training time "]


def test_growth_of_anything_is_named() -> None:
    assert not soak(grow=2.0).rss_slope.flat
    assert soak(grow=2.0).rss_slope.per_hour == pytest.approx(7200, rel=0.02)
    assert any("memory" in line for line in soak(grow=2.0).failures())
    for name in ("handles", "threads"):
        assert any(name in line for line in soak(**{name: 30}).failures())
    assert any("disk" in line for line in soak(disk_bytes=9000).failures())


def test_steps_beside_a_save_are_compared_with_the_others() -> None:
    steps = [step(1, 1.0), step(2, 2.0), step(3, 3.4, 1.4), step(4, 4.4), step(5, 5.4)]
    assert save_inflation(steps, [checkpoint(2, 3.0, 0.0)]) == pytest.approx(0.4)
    assert save_inflation(steps, []) == 0.0


def test_an_attempt_that_fails_fails_the_soak() -> None:
    events = [step(1, 1.0), step(2, 2.0)]
    report = build_report(events, [], [Span(1, 0.0, 2.0, "ended with 70: no")], warm_up=0)
    assert "attempt 1 ended with 70: no" in report.failures()
    assert any("too few samples" in line for line in report.failures())
