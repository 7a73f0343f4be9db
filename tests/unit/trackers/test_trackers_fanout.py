"""A tracker that fails is told once and never ends a run; the log must work."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from tunewright.config.schema import RunConfig
from tunewright.trackers import fanout
from tunewright.trackers.fanout import TRACKERS, Fanout, open_trackers
from tunewright.trackers.jsonl import EventLog, read_events
from tunewright.trackers.protocol import Event, TrackedRun


class Kept:
    """A tracker that keeps its events, and fails at a number of them and when closed if told so."""

    def __init__(self, fail_from: int | None = None) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._fail_from = fail_from

    def emit(self, event: Event) -> None:
        if self._fail_from is not None and len(self.events) >= self._fail_from:
            raise ConnectionError("no route to host")
        self.events.append(event)

    def close(self) -> None:
        self.closed = True
        if self._fail_from is not None:
            raise ConnectionError("no route to host")


def _types(path: Path) -> list[str]:
    return [event["type"] for event in read_events(path)]


def test_table_holds_what_the_config_offers():
    listed = get_args(RunConfig.model_fields["track"].annotation)[1]
    assert set(TRACKERS) == set(get_args(get_args(listed)[0]))


def test_every_tracker_gets_what_the_log_has(tmp_path: Path):
    one, two = Kept(), Kept()
    sender = Fanout(EventLog(tmp_path / "a"), {"one": one, "two": two})
    sender.emit("run_started", 0, model="m")
    sender.emit("step", 1, loss=1.5)
    sender.close()
    assert one.events == two.events == list(read_events(tmp_path / "a"))
    assert one.events[0]["time"].endswith("+00:00")
    assert one.closed
    assert two.closed


def test_failing_trackers_are_told_once_each_and_left_out(tmp_path: Path):
    good = Kept()
    trackers: dict[str, Any] = {"b1": Kept(0), "b2": Kept(0), "b3": Kept(1), "good": good}
    sender = Fanout(EventLog(tmp_path / "a"), trackers)
    for step in range(1, 5):
        sender.emit("step", step)
    sender.close()
    messages = [event["message"] for event in good.events if event["type"] == "warning"]
    assert sorted(message.split()[1] for message in messages) == ["b1", "b2", "b3"]
    assert all("no route to host" in message for message in messages)
    assert [event["step"] for event in good.events if event["type"] == "step"] == [1, 2, 3, 4]
    assert _types(tmp_path / "a").count("step") == 4


def test_a_tracker_that_fails_to_close_keeps_no_other_open(tmp_path: Path):
    good = Kept()
    log = EventLog(tmp_path / "a")
    Fanout(log, {"bad": Kept(9), "good": good}).close()
    assert good.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.emit({"type": "step", "step": 1})


def test_a_tracker_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(run: TrackedRun) -> Kept:
        raise RuntimeError(f"no licence for {run.total_steps} steps")

    monkeypatch.setitem(fanout.TRACKERS, "refusing", refuse)
    with open_trackers(["refusing"], tmp_path / "a", TrackedRun(tmp_path, "r", 7, {})) as emit:
        emit("step", 1)
    events = list(read_events(tmp_path / "a"))
    assert [event["type"] for event in events] == ["warning", "step"]
    assert "no licence for 7 steps" in events[0]["message"]


def test_a_log_that_fails_ends_the_run(tmp_path: Path):
    run = TrackedRun(tmp_path, "r", 3, {})
    with pytest.raises(OSError, match="Is a directory"), open_trackers([], tmp_path, run):
        pass
    log = EventLog(tmp_path / "a")
    sender = Fanout(log, {})
    sender.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sender.emit("step", 1)
