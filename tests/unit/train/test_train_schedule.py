"""Learning rates, marks and stop signals: pure functions of the step, and real signals."""

from __future__ import annotations

import math
import os
import signal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.config.schema import CheckpointConfig, EvaluateConfig, TrainConfig
from tunewright.train.cadence import Cadence, build_cadence
from tunewright.train.progress import Progress
from tunewright.train.schedule import SCHEDULES, build_schedule
from tunewright.train.stop import StopSignal


def test_table_holds_what_the_config_offers():
    assert set(SCHEDULES) == set(get_args(TrainConfig.model_fields["schedule"].annotation))


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    total=st.integers(1, 500),
    ratio=st.floats(0, 1),
    peak=st.floats(1e-6, 1.0),
)
def test_rises_to_the_peak_and_never_again(name: str, total: int, ratio: float, peak: float):
    rate = build_schedule(TrainConfig(schedule=name, warmup_ratio=ratio), total, peak)
    warmup = math.ceil(ratio * total)
    rates = [rate(step) for step in range(total)]
    assert all(0 < value <= peak * (1 + 1e-12) for value in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) == pytest.approx(peak)
    assert rates == [rate(step) for step in range(total)]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", [0.5, 1, *(0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(9))]),
    ],
)
def test_known_values(name: str, rates: list[float]):
    rate = build_schedule(TrainConfig(schedule=name, warmup_ratio=0.2), 10, 1.0)
    assert [rate(step) for step in range(11)] == pytest.approx(rates, abs=1e-15)


@given(every=st.integers(1, 30), total=st.integers(1, 100), export=st.sampled_from(["epoch", "never", 7]))
def test_marks_are_where_the_config_puts_them(every: int, total: int, export: str | int):
    cadence = build_cadence(
        CheckpointConfig(every_steps=every, export_every=export),
        EvaluateConfig(every_steps=every),
        total_steps=total,
    )
    steps = range(total + 1)
    exports = [step for step in steps if cadence.exports(Progress(step=step, epoch=step / 5))]
    assert [step for step in steps if cadence.saves(step)] == sorted({*range(every, total + 1, every), total})
    assert [step for step in steps if cadence.evaluates(step)] == sorted({*range(0, total + 1, every), total})
    assert cadence.count_evaluations() == sum(cadence.evaluates(step) for step in steps)
    spacing = {"epoch": 5, "never": total, 7: 7}[export]
    assert exports == list(range(spacing, total, spacing))
    assert all(
        cadence.is_mark(Progress(step=step, epoch=step / 5))
        == (cadence.saves(step) or cadence.evaluates(step) or step in exports)
        for step in steps
    )


def test_state_before_the_first_step_is_not_saved():
    cadence = Cadence(total_steps=4, evaluate_every_steps=2, save_every_steps=2, export_every=2)
    assert (cadence.evaluates(0), cadence.saves(0), cadence.exports(Progress())) == (True, False, False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_names_itself(number: signal.Signals):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal_name == number.name
    assert signal.getsignal(number) is before


def test_second_interrupt_stops_at_once_and_restores():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _run_until(signal.SIGINT, signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_termination_may_be_repeated():
    with StopSignal() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_interrupt_after_termination_stops_at_once():
    with pytest.raises(KeyboardInterrupt):
        _run_until(signal.SIGTERM, signal.SIGINT)


def _run_until(*numbers: signal.Signals) -> None:
    with StopSignal() as stop:
        for number in numbers:
            os.kill(os.getpid(), number)
            assert stop.signal_name == numbers[0].name
