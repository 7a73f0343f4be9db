"""A run without a sign of life is noticed, and one that lives is left alone."""

from __future__ import annotations

import threading
from itertools import pairwise
from time import monotonic, sleep

from tunewright.train.watchdog import Watchdog


def watch(first: float, later: float) -> tuple[Watchdog, threading.Event, list[float]]:
    stalled, seconds = threading.Event(), []

    def on_stall(patience: float) -> None:
        seconds.append(patience)
        stalled.set()

    return Watchdog(first, later, on_stall), stalled, seconds


def test_silence_after_the_first_steps_is_a_stall():
    watchdog, stalled, seconds = watch(30.0, 0.2)
    with watchdog:
        for _ in range(3):
            watchdog.step()
        started = monotonic()
        assert stalled.wait(60)
        assert monotonic() - started > 0.15
    assert seconds == [0.2]


def test_the_first_steps_have_longer():
    watchdog, stalled, _ = watch(30.0, 0.05)
    with watchdog:
        watchdog.step()
        watchdog.step()
        assert not stalled.wait(0.4)


def test_a_first_step_that_hangs_is_a_stall_too():
    watchdog, stalled, seconds = watch(0.2, 0.1)
    with watchdog:
        watchdog.step()
        assert stalled.wait(60)
    assert seconds == [0.2]


def pause_seconds(asked: float) -> float:
    """The longest of ten sleeps of `asked` seconds."""
    starts = [monotonic()]
    for _ in range(10):
        sleep(asked)
        starts.append(monotonic())
    return max(end - start for start, end in pairwise(starts))


def test_beats_and_rest_keep_it_quiet():
    # Far more than this machine makes a beat late by now.
    patience = max(1.0, 20 * pause_seconds(0.05))
    watchdog, stalled, _ = watch(patience, patience)
    with watchdog:
        for _ in range(30):
            watchdog.beat()
            sleep(0.05)
        with watchdog.resting():
            assert not stalled.wait(1.5 * patience)
        assert not stalled.is_set()
        assert stalled.wait(60)


def test_nothing_is_left_behind():
    before = threading.active_count()
    for _ in range(5):
        with watch(60, 60)[0]:
            pass
    deadline = monotonic() + 60
    while threading.active_count() > before and monotonic() < deadline:
        sleep(0.01)
    assert threading.active_count() == before
