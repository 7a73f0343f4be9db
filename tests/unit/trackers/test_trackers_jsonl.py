"""events.jsonl: numbering over attempts, torn lines, and readers that live with them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunewright.trackers.jsonl import EventLog, read_events, read_steps


def _write(path: Path, steps: list[int], **fields: object) -> None:
    log = EventLog(path)
    for step in steps:
        log.emit({"type": "step", "step": step, **fields})
    log.close()


def test_events_are_numbered_and_attempts_counted(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    _write(path, [1, 2, 3])
    _write(path, [3, 4])
    events = list(read_events(path))
    assert [(event["seq"], event["attempt"], event["step"]) for event in events] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 1, 3),
        (4, 2, 3),
        (5, 2, 4),
    ]
    assert {event["v"] for event in events} == {1}
    assert {step: event["attempt"] for step, event in read_steps(path).items()} == {1: 1, 2: 1, 3: 2, 4: 2}


def test_each_event_is_on_disk_when_emit_returns(tmp_path: Path):
    log = EventLog(tmp_path / "a")
    for step in range(3):
        returned = log.emit({"type": "step", "step": step})
        assert list(read_events(tmp_path / "a"))[-1] == returned
    log.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 400))
def test_log_cut_anywhere_goes_on_without_a_broken_line(tmp_path: Path, cut: int):
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    _write(path, [1, 2, 3, 4], note="für alle")
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = data.count(b"\n")
    assert [event["seq"] for event in read_events(path)] == list(range(1, whole + 1))
    _write(path, [9])
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, whole + 2))
    assert json.loads(lines[-1])["attempt"] == (2 if whole else 1)


@pytest.mark.parametrize(
    "broken", [b"\0" * 50, b"{", b"[]", b"3", b'{"seq": 9}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_line_that_a_power_cut_broke_is_passed_over(tmp_path: Path, broken: bytes):
    path = tmp_path / "events.jsonl"
    _write(path, [1, 2])
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + broken + b"\n" + second + b"\n")
    assert [event["step"] for event in read_events(path)] == [1, 2]
    _write(path, [3])
    assert [(event["seq"], event["attempt"]) for event in read_events(path)] == [(1, 1), (2, 1), (3, 2)]


def test_numbers_that_json_lacks_become_null(tmp_path: Path):
    log = EventLog(tmp_path / "a")
    log.emit(
        {
            "type": "step",
            "step": 1,
            "loss": math.nan,
            "gradient_norm": math.inf,
            "deep": {"a": [-math.inf, 1]},
        }
    )
    log.close()
    event = next(read_events(tmp_path / "a"))
    assert (event["loss"], event["gradient_norm"], event["deep"]) == (None, None, {"a": [None, 1]})
    assert "NaN" not in (tmp_path / "a").read_text()


def test_highest_attempt_wins_whatever_the_order(tmp_path: Path):
    rows = [
        {"type": "step", "step": 2, "seq": 1, "attempt": 2},
        {"type": "step", "step": 2, "seq": 2, "attempt": 1},
    ]
    rows += [
        {"type": "step", "step": 1, "seq": 3, "attempt": 1},
        {"type": "export", "step": 1, "seq": 4, "attempt": 2},
    ]
    path = tmp_path / "a"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(step, event["attempt"]) for step, event in read_steps(path).items()] == [(1, 1), (2, 2)]
