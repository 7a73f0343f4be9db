"""Judge a history of the service: what its clients were told, what its workers were granted, what was left.

A history is a list of records, each a mapping with a `kind`; times are seconds on one clock. `t0` is when a
call went out and `t` when its answer came. `find_violations` needs nothing else, so that it can be tried with
histories that are made up.

made      t, key, job                    a create call that was answered; key: its Idempotency-Key
seen      t, job, status                 a status that a client was told, in the order in which it was told
asked     t, job, action, code           cancel, pause or resume that was answered with this HTTP status
streamed  job, ids, done                 event ids as they came over one stream and its continuations
claim     t0, t, worker, job, attempt    a worker got the job
write     t0, t, worker, job, attempt, verb, code      a worker's call about its job; code 0: no answer came
idle      t, worker                      a worker asked for work and got none
fault     t, until, what, worker, calm   calm: nothing else was done until the takeover
trainer   start, end, job, worker, pid   a training process as the machine showed it
end       job, status, events, results   what is left: events oldest first, {id, message, step}
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from service_takeovers import find_takeovers
from tunewright.service.jobs import TERMINAL, TRANSITIONS, Status

Record = Mapping[str, Any]

LAST_WORDS = ("The job has successfully completed", "Fine-tuning job failed", "Fine-tuning job cancelled")
FENCE_SHARE = 0.5
"""Share of a lease for which a training process may outlive it, while the one that ends it gets no time."""


def find_violations(history: Sequence[Record], lease_seconds: float) -> list[str]:
    """Every way in which the history breaks a promise of the service; empty for a good one."""
    return [
        *_lost_or_doubled(history),
        *_ends(history),
        *_unlawful_statuses(history),
        *_fencing(history, lease_seconds),
        *_events(history),
        *_two_at_once(history, lease_seconds),
        *_results(history),
        *(
            f"{found.job}: taken over after {found.seconds:.2f} s, lease {lease_seconds:g} s"
            for found in find_takeovers(history, lease_seconds)
            if found.calm and found.seconds > found.most_seconds(lease_seconds)
        ),
    ]


def of_kind(history: Sequence[Record], kind: str) -> list[Record]:
    """The records of one kind, in their order."""
    return [record for record in history if record["kind"] == kind]


def _by_job(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record["job"]].append(record)
    return found


def _lost_or_doubled(history: Sequence[Record]) -> Iterator[str]:
    left = Counter(record["job"] for record in of_kind(history, "end"))
    by_key: dict[str, set[str]] = defaultdict(set)
    for record in of_kind(history, "made"):
        by_key[record["key"]].add(record["job"])
    for key, jobs in by_key.items():
        if len(jobs) > 1:
            yield f"the call {key} made {len(jobs)} jobs: {sorted(jobs)}"
    acknowledged = {job for jobs in by_key.values() for job in jobs}
    yield from (f"{job}: acknowledged and lost" for job in sorted(acknowledged - left.keys()))
    yield from (f"{job}: there, but nobody was told of it" for job in sorted(left.keys() - acknowledged))


def _ends(history: Sequence[Record]) -> Iterator[str]:
    asked = _by_job(record for record in of_kind(history, "asked") if record["code"] == 200)
    for record in of_kind(history, "end"):
        job, status = record["job"], Status(record["status"])
        actions = [ask["action"] for ask in asked.get(job, ())]
        kept_paused = status is Status.PAUSED and actions[-1:] == ["pause"]
        if status not in TERMINAL and not kept_paused:
            yield f"{job}: never ended, it is {status}"
        if "cancel" in actions and status is not Status.CANCELLED:
            yield f"{job}: cancelled, and yet {status}"
        if status is Status.CANCELLED and "cancel" not in {ask["action"] for ask in _asked(history, job)}:
            yield f"{job}: cancelled by nobody"


def _asked(history: Sequence[Record], job: str) -> list[Record]:
    return [record for record in of_kind(history, "asked") if record["job"] == job]


def _reachable() -> dict[Status, set[Status]]:
    found = {status: {status} for status in Status}
    for _ in Status:
        for (before, _action), after in TRANSITIONS.items():
            found[before] |= found[after]
    return found


def _unlawful_statuses(history: Sequence[Record]) -> Iterator[str]:
    reachable = _reachable()
    told = (record for record in history if record["kind"] in ("seen", "end"))
    for job, records in _by_job(told).items():
        for before, after in pairwise(Status(record["status"]) for record in records):
            if after not in reachable[before]:
                yield f"{job}: {after} after {before}"


def _fencing(history: Sequence[Record], lease_seconds: float) -> Iterator[str]:
    """No write of an attempt is accepted once a later one began; none begins while another holds."""
    writes = _by_job(of_kind(history, "write"))
    for job, claims in _by_job(of_kind(history, "claim")).items():
        numbers = Counter(claim["attempt"] for claim in claims)
        yield from (f"{job}: attempt {number} was claimed twice" for number, n in numbers.items() if n > 1)
        for claim in claims:
            number = claim["attempt"]
            mine = [write for write in writes.get(job, ()) if write["attempt"] == number]
            later = min((other["t"] for other in claims if other["attempt"] > number), default=float("inf"))
            done = min(
                (write["t"] for write in mine if write["verb"] == "finish" and write["code"] == 204),
                default=float("inf"),
            )
            for write in mine:
                if 200 <= write["code"] < 300 and write["t0"] > min(later, done):
                    yield f"{job}: {write['verb']} of attempt {number} was accepted after its end"
            # A finish without an answer may have been done; a cancelled or lost one has no next claim.
            may_be_done = any(write["verb"] == "finish" and write["code"] != 409 for write in mine)
            renewed = max(
                [claim["t0"], *(w["t0"] for w in mine if w["verb"] == "renew" and w["code"] == 200)]
            )
            if not may_be_done and later < renewed + lease_seconds:
                early = renewed + lease_seconds - later
                yield f"{job}: claimed {early:.2f} s before attempt {number} was over"


def _events(history: Sequence[Record]) -> Iterator[str]:
    streams = _by_job(of_kind(history, "streamed"))
    for record in of_kind(history, "end"):
        job, events = record["job"], record["events"]
        ids = [event["id"] for event in events]
        yield from (f"{job}: event {one} is there twice" for one, n in Counter(ids).items() if n > 1)
        steps = [event["step"] for event in events if event["step"] is not None]
        if any(after <= before for before, after in pairwise(steps)):
            yield f"{job}: steps out of order: {steps}"
        ends = [place for place, event in enumerate(events) if event["message"].startswith(LAST_WORDS)]
        over = Status(record["status"]) in TERMINAL
        if ends != ([len(events) - 1] if over else []):
            yield f"{job}: {len(ends)} last words among {len(events)} events, and it is {record['status']}"
        for stream in streams.get(job, ()):
            heard = stream["ids"]
            if heard != (ids if stream["done"] else ids[: len(heard)]):
                yield f"{job}: a stream told other events than the list, or not in order"


def _two_at_once(history: Sequence[Record], lease_seconds: float) -> Iterator[str]:
    frozen = [fault for fault in of_kind(history, "fault") if fault["what"] == "freeze machine"]
    for job, trainers in _by_job(of_kind(history, "trainer")).items():
        for first, second in pairwise(sorted(trainers, key=lambda record: record["start"])):
            both = first["end"] - second["start"]
            # A machine that stands still cannot end its trainer. The claim of the other is checked above.
            excused = any(
                fault["worker"] == first["worker"] and fault["t"] <= second["start"] <= fault["until"]
                for fault in frozen
            )
            if both > FENCE_SHARE * lease_seconds and not excused:
                yield f"{job}: two training processes for {both:.2f} s, {first['pid']} and {second['pid']}"


def _results(history: Sequence[Record]) -> Iterator[str]:
    """Jobs of the same make end in the same numbers, however often they were interrupted."""
    first: dict[str, Record] = {}
    for record in of_kind(history, "end"):
        if record["status"] != Status.SUCCEEDED:
            continue
        job, results = record["job"], record["results"]
        steps = [event["step"] for event in record["events"] if event["step"] is not None]
        if steps != list(range(1, len(steps) + 1)) or len(steps) != results["steps"]:
            yield f"{job}: succeeded with the steps {steps} of {results['steps']}"
        known = first.setdefault(results["make"], record)
        for what in ("csv", "model", "checkpoints"):
            if results[what] != known["results"][what]:
                yield f"{job}: its {what} differs from that of {known['job']}"
