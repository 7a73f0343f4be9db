"""How long jobs of killed workers waited for the next one, from a history as service_history.py has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
TAKEOVER_LEASES = 1.5


@dataclass(frozen=True, slots=True)
class Takeover:
    """calm: nothing else was broken meanwhile, another worker was free, and nobody touched the job.
    pace: the longest time between two polls of one waiting worker before the kill, on this machine as busy as
    it was."""

    job: str
    seconds: float
    calm: bool
    pace: float = 0.0

    def most_seconds(self, lease_seconds: float) -> float:
        """The longest that it may last: what is left of the lease, and the next poll, which a busy machine
        makes late."""
        return max(TAKEOVER_LEASES * lease_seconds, lease_seconds + 2 * self.pace)


def find_takeovers(history: Sequence[Record], lease_seconds: float) -> list[Takeover]:
    """Takeovers after a worker was killed, in the order of the kills. One that never came is left out, unless
    it was a calm kill: then it lasted for ever. A job that failed as it was lost too often needs none."""
    return [
        found
        for fault in history
        if fault["kind"] == "fault" and fault["what"] == "kill worker"
        for found in _takeover(history, fault, lease_seconds)
    ]


def _takeover(history: Sequence[Record], fault: Record, lease_seconds: float) -> list[Takeover]:
    held = held_by(history, fault["worker"], fault["t"])
    if held is None:
        return []
    job = held["job"]
    after = [
        record
        for record in history
        if record["kind"] == "claim" and record["job"] == job and record["attempt"] > held["attempt"]
    ]
    taken = min((record["t"] for record in after), default=float("inf"))
    calm = (
        fault["calm"]
        and _somebody_waits(history, fault, lease_seconds)
        and not _touched(history, job, fault["t"], taken)
    )
    given_up = any(r["kind"] == "end" and r["job"] == job and r["status"] == "failed" for r in history)
    if not after and (given_up or not calm):
        return []
    return [Takeover(job, taken - fault["t"], calm, poll_seconds(history, fault["t"]))]


def poll_seconds(history: Sequence[Record], before: float) -> float:
    """The longest time between two polls in a row that found no work, of any worker."""
    last: dict[str, Record] = {}
    longest = 0.0
    for record in history:
        if record["kind"] in ("claim", "idle") and record["t"] <= before:
            known = last.get(record["worker"])
            if known and known["kind"] == record["kind"] == "idle":
                longest = max(longest, record["t"] - known["t"])
            last[record["worker"]] = record
    return longest


def held_by(history: Sequence[Record], worker: str, at: float) -> Record | None:
    """The claim that a worker still worked on at a time."""
    claims = [r for r in history if r["kind"] == "claim" and r["worker"] == worker and r["t"] <= at]
    if not claims:
        return None
    last = max(claims, key=lambda record: record["t"])
    over = any(
        record["kind"] == "write"
        and (record["job"], record["attempt"]) == (last["job"], last["attempt"])
        and (record["verb"] == "finish" or record["code"] == 409)
        and record["t0"] <= at
        for record in history
    )
    given_up = any(
        r["kind"] == "idle" and r["worker"] == worker and last["t"] < r["t"] <= at for r in history
    )
    return None if over or given_up else last


def _somebody_waits(history: Sequence[Record], fault: Record, lease_seconds: float) -> bool:
    """Whether the last that was heard of another worker before the lease ran out is that it has no work."""
    last: dict[str, str] = {}
    recent = fault["t"] - max(2.0, 2 * poll_seconds(history, fault["t"]))
    for record in history:
        if record["kind"] in ("claim", "idle") and record["t"] <= fault["t"] + 0.5 * lease_seconds:
            last[record["worker"]] = (
                record["kind"] if record["t"] > recent or record["kind"] == "claim" else "gone"
            )
    return any(kind == "idle" for worker, kind in last.items() if worker != fault["worker"])


def _touched(history: Sequence[Record], job: str, since: float, until: float) -> bool:
    return any(r["kind"] == "asked" and r["job"] == job and since - 1 <= r["t"] <= until for r in history)
