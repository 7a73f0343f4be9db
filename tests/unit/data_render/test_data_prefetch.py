"""Steps built ahead by a thread: the same as without, and no thread stays behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count, islice
from time import monotonic, sleep

import pytest

from tunewright.data.prefetch import prefetched
from tunewright.types import StepBatch


def make_step(position: int) -> StepBatch:
    return StepBatch((), position, 0.0, 1.0, 1, 1, 1)


def endless(closed: list[int] | None = None) -> Iterator[StepBatch]:
    try:
        for position in count(1):
            yield make_step(position)
    finally:
        if closed is not None:
            closed.append(1)


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not is_true():
        assert monotonic() < deadline
        sleep(0.005)


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_steps_come_whole_and_in_order(depth: int) -> None:
    wanted = list(islice(endless(), 50))
    assert list(prefetched(iter(wanted), depth)) == wanted
    wait_until(lambda: threads() == 0)


def test_never_more_than_depth_are_ready_or_being_built() -> None:
    asked: list[int] = []

    def watched() -> Iterator[StepBatch]:
        for step in endless():
            asked.append(step.position)
            yield step

    steps = prefetched(watched(), 3)
    for taken in range(1, 10):
        next(steps)
        sleep(0.01)
        assert taken <= len(asked) <= taken + 3
    steps.close()


def test_an_error_comes_after_the_steps_before_it() -> None:
    def failing() -> Iterator[StepBatch]:
        yield from islice(endless(), 3)
        raise ValueError("row 4")

    steps = prefetched(failing())
    sleep(0.02)
    assert [next(steps).position for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ValueError, match="row 4"):
        next(steps)
    wait_until(lambda: threads() == 0)


@pytest.mark.parametrize("end", ["close", "forget", "consumer fails"])
def test_the_thread_ends_with_its_consumer(end: str) -> None:
    closed: list[int] = []

    def consume() -> None:
        for _ in prefetched(endless(closed=closed)):
            raise RuntimeError("the consumer fails")

    if end == "consumer fails":
        with pytest.raises(RuntimeError):
            consume()
    else:
        steps = prefetched(endless(closed=closed))
        next(steps)
        if end == "close":
            steps.close()
        del steps
    gc.collect()
    wait_until(lambda: threads() == 0)
    assert closed == [1]


def test_closing_does_not_wait_for_the_step_being_built() -> None:
    release = threading.Event()
    built: list[bool] = []

    def blocked() -> Iterator[StepBatch]:
        yield make_step(1)
        release.wait(60)
        built.append(release.is_set())

    steps = prefetched(blocked())
    next(steps)
    steps.close()
    assert not built
    release.set()
    wait_until(lambda: threads() == 0)


def test_a_stop_ends_the_wait_for_a_step() -> None:
    release, stop = threading.Event(), threading.Event()

    def blocked() -> Iterator[StepBatch]:
        yield make_step(1)
        stop.set()
        release.wait(60)

    assert [step.position for step in prefetched(blocked(), look=stop.is_set)] == [1]
    release.set()
    wait_until(lambda: threads() == 0)


def test_steps_are_built_while_nobody_asks_for_them() -> None:
    asked: list[int] = []

    def watched() -> Iterator[StepBatch]:
        for step in endless():
            asked.append(step.position)
            yield step

    steps = prefetched(watched(), 3)
    next(steps)
    wait_until(lambda: len(asked) == 4)
    steps.close()


def test_an_interpreter_leaves_while_the_thread_is_blocked() -> None:
    program = """
import os, sys
from tunewright.data.prefetch import prefetched
reader, writer = os.pipe()
def steps():
    yield "step"
    with open(reader, "rb") as pipe:
        pipe.readline()
ahead = prefetched(steps())
print(next(ahead))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "step\n", "")


def test_without_room_for_a_thread_the_steps_come_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert list(prefetched(iter([1, 2, 3]))) == [1, 2, 3]  # type: ignore[list-item]
