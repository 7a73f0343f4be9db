"""What counts as a bad step, a jump and a divergence, and that a resumed guard decides alike."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.train.guard import FEWEST, Diverged, Guard
from tunewright.train.progress import Progress
from tunewright.types import LossSums, StepStats


def stats(
    loss: float = 2.0, norm: float = 1.0, *, skipped: bool = False, rescaled: bool = False
) -> StepStats:
    return StepStats(LossSums(loss, 1.0, 1, 0), norm, skipped, rescaled)


def at(step: int) -> Progress:
    return Progress(step=step)


def settled(guard: Guard, steps: int = 30) -> int:
    """Feed a calm run; returns the next step."""
    for step in range(1, steps + 1):
        assert guard.check(at(step), stats(2.0 + 0.01 * (step % 5), 1.0 + 0.02 * (step % 3))) is None
    return steps + 1


def test_three_bad_steps_in_a_row_diverge_and_say_where():
    guard = Guard()
    for step in (4, 5):
        assert guard.check(at(step), stats(norm=math.nan, skipped=True)) == (
            f"step {step} had no finite gradient and was left out"
        )
    with pytest.raises(Diverged, match="3 steps in a row") as caught:
        guard.check(at(6), stats(norm=math.nan, skipped=True))
    assert caught.value.progress.step == 6


def test_a_good_step_in_between_starts_the_count_again():
    guard = Guard()
    for step, skipped in enumerate([True, True, False] * 5, start=1):
        guard.check(at(step), stats(norm=math.inf if skipped else 1.0, skipped=skipped))
    assert guard.bad_in_a_row == 0


def test_steps_that_only_lower_the_loss_scale_do_not_count():
    guard = Guard()
    for step in range(10):
        assert guard.check(at(step), stats(norm=math.inf, skipped=True, rescaled=True)) is None
    assert guard.bad_in_a_row == 0


@pytest.mark.parametrize(("loss", "norm", "named"), [(9.0, 1.0, "loss 9"), (2.0, 5.5, "gradient_norm 5.5")])
def test_a_jump_is_named_with_what_is_usual(loss: float, norm: float, named: str):
    guard = Guard("warn")
    step = settled(guard)
    warning = guard.check(at(step), stats(loss, norm))
    assert warning is not None
    assert warning.startswith(f"step {step} jumped: {named}")
    assert "usual is" in warning
    assert guard.skip_above(step + 1) is None


def test_off_says_nothing_about_jumps():
    guard = Guard("off")
    step = settled(guard)
    assert guard.check(at(step), stats(900.0, 900.0)) is None


def test_skip_bounds_the_norm_and_three_in_a_row_diverge():
    guard = Guard("skip")
    assert guard.skip_above(1) is None
    step = settled(guard)
    bound = guard.skip_above(step)
    assert bound is not None
    assert 5.0 <= bound < 5.5
    for more in range(2):
        guard.check(at(step + more), stats(norm=50.0, skipped=True))
        assert guard.skip_above(step + more + 1) == pytest.approx(bound, rel=0.02)
    with pytest.raises(Diverged):
        guard.check(at(step + 2), stats(norm=50.0, skipped=True))


def test_a_decision_about_a_step_never_uses_the_step_before_it():
    early, late = Guard("skip"), Guard("skip")
    step = FEWEST + 4
    for guard in (early, late):
        for before in range(1, step):
            guard.check(at(before), stats(norm=1 + before / 100))
    # On a fast device, or after a mark, the step before is known already. That must change nothing.
    late.check(at(step), stats(norm=7.0))
    assert late.skip_above(step + 1) == early.skip_above(step + 1)
    assert late.skip_above(step + 2) != early.skip_above(step + 1)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=120), st.integers(0, 119))
def test_a_guard_from_its_saved_state_decides_alike(norms: list[float], cut: int):
    whole, parts = Guard("skip"), Guard("skip")
    for step, norm in enumerate(norms, start=1):
        if step == cut:
            parts = Guard("skip", json.loads(json.dumps(parts.state())))
        assert whole.skip_above(step) == parts.skip_above(step)
        assert whole.check(at(step), stats(norm, norm)) == parts.check(at(step), stats(norm, norm))
    assert whole.state() == parts.state()


def test_going_back_forgets_the_bad_steps():
    guard = Guard()
    step = settled(guard)
    state = guard.state()
    guard.check(at(step), stats(norm=math.nan, skipped=True))
    guard.go_back(state)
    assert guard.bad_in_a_row == 0
    assert guard.state() == state
