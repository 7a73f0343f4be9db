"""The event log on a disk without room: nothing torn, nothing lost once there is room again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunewright.trackers import jsonl
from tunewright.trackers.jsonl import EventLog, read_events


class Disk:
    """os.write with a number of bytes left; what does not fit is written in part, then refused."""

    def __init__(self, room: int, number: int = errno.ENOSPC) -> None:
        self.room, self.number, self.write = room, number, os.write

    def __call__(self, handle: int, data: bytes) -> int:
        if not self.room:
            raise OSError(self.number, os.strerror(self.number))
        taken = self.write(handle, data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, 90, 250])
def test_events_wait_for_room_and_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = Disk(room)
    monkeypatch.setattr(os, "write", disk)
    log = EventLog(tmp_path / "events.jsonl")
    for step in range(5):
        log.emit({"type": "step", "step": step})
    written = (tmp_path / "events.jsonl").read_bytes()
    assert written == b"" or written.endswith(b"\n")
    disk.room = 10**9
    log.emit({"type": "step", "step": 5})
    log.close()
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [event["step"] for event in events] == list(range(6))
    assert [event["seq"] for event in events] == list(range(1, 7))


def test_a_disk_that_stays_full_is_an_error_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", Disk(0))
    monkeypatch.setattr(jsonl, "LINES_KEPT", 3)
    log = EventLog(tmp_path / "events.jsonl")
    for step in range(3):
        log.emit({"type": "step", "step": step})
    with pytest.raises(OSError, match="space") as caught:
        log.emit({"type": "step", "step": 3})
    assert caught.value.filename == str(tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="space"):
        log.close()


def test_other_faults_are_raised_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    monkeypatch.setattr(os, "write", Disk(0, errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        log.emit({"type": "step", "step": 0})
