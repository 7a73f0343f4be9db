"""The judge of a history finds every kind of broken promise, and nothing in a good history."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from service_history import find_violations
from service_takeovers import find_takeovers

LEASE = 2.0
History = list[dict[str, Any]]


def claim(t: float, attempt: int, worker: str = "w0", job: str = "j") -> dict[str, Any]:
    return {"kind": "claim", "t0": t - 0.01, "t": t, "worker": worker, "job": job, "attempt": attempt}


def write(t: float, attempt: int, verb: str, code: int, worker: str = "w0") -> dict[str, Any]:
    call = {"kind": "write", "t0": t - 0.01, "t": t, "worker": worker, "job": "j"}
    return {**call, "attempt": attempt, "verb": verb, "code": code}


def event(number: int, message: str = "", step: int | None = None) -> dict[str, Any]:
    return {"id": f"e{number}", "message": message or f"Step {step}/2", "step": step}


def result(**changed: Any) -> dict[str, Any]:
    return {"make": "a", "steps": 2, "csv": "c", "model": ["m"], "checkpoints": [2], **changed}


def good() -> History:
    """One job: its worker is killed, another one waits and takes it over; a second one is cancelled."""
    events = [event(0, "Created"), event(1, step=1), event(2, step=2)]
    events.append(event(3, "The job has successfully completed"))
    return [
        {"kind": "made", "t": 0.0, "key": "k", "job": "j"},
        {"kind": "made", "t": 0.1, "key": "l", "job": "x"},
        {"kind": "seen", "t": 0.2, "job": "j", "status": "validating_files"},
        claim(1.0, 1),
        {"kind": "trainer", "start": 1.5, "end": 3.0, "job": "j", "worker": "w0", "pid": 1},
        write(2.0, 1, "renew", 200),
        write(2.2, 1, "report", 204),
        {"kind": "idle", "t": 2.4, "worker": "w1"},
        {"kind": "fault", "t": 2.5, "until": 2.5, "what": "kill worker", "worker": "w0", "calm": True},
        {"kind": "idle", "t": 3.4, "worker": "w1"},
        {"kind": "asked", "t": 0.9, "job": "x", "action": "cancel", "code": 200},
        {"kind": "seen", "t": 1.0, "job": "j", "status": "running"},
        claim(4.2, 2, "w1"),
        {"kind": "trainer", "start": 4.5, "end": 5.4, "job": "j", "worker": "w1", "pid": 2},
        write(5.0, 2, "report", 204, "w1"),
        write(5.5, 2, "finish", 204, "w1"),
        {"kind": "seen", "t": 5.6, "job": "j", "status": "succeeded"},
        {"kind": "streamed", "t": 6.0, "job": "j", "ids": [f"e{n}" for n in range(4)], "done": True},
        {"kind": "end", "t": 7.0, "job": "j", "status": "succeeded", "events": events, "results": result()},
        {
            "kind": "end",
            "t": 7.0,
            "job": "x",
            "status": "cancelled",
            "events": [event(9, "Fine-tuning job cancelled")],
            "results": None,
        },
    ]


def end(history: History, job: str = "j") -> dict[str, Any]:
    return next(record for record in history if record["kind"] == "end" and record["job"] == job)


def without(kind: str) -> Callable[[History], None]:
    def change(history: History) -> None:
        history[:] = [record for record in history if record["kind"] != kind]

    return change


def drop_end(history: History) -> None:
    history.remove(end(history))


def second_job_with_other(what: str, value: Any) -> Callable[[History], None]:
    def change(history: History) -> None:
        other = copy.deepcopy(end(history))
        other |= {"job": "y", "results": result(**{what: value})}
        history += [{"kind": "made", "t": 0.3, "key": "m", "job": "y"}, other]

    return change


def fault(what: str) -> dict[str, Any]:
    return {"kind": "fault", "t": 2.6, "until": 5.0, "what": what, "worker": "w0", "calm": False}


PLANTED: dict[str, tuple[Callable[[History], Any], str]] = {
    "lost": (drop_end, "acknowledged and lost"),
    "unknown": (without("made"), "nobody was told of it"),
    "made twice": (
        lambda h: h.append({"kind": "made", "t": 1.0, "key": "k", "job": "x"}),
        "the call k made 2 jobs",
    ),
    "still running": (lambda h: end(h).update(status="running"), "never ended, it is running"),
    "paused by nobody": (lambda h: end(h).update(status="paused"), "never ended, it is paused"),
    "cancel forgotten": (
        lambda h: h.append({"kind": "asked", "t": 3.0, "job": "j", "action": "cancel", "code": 200}),
        "cancelled, and yet succeeded",
    ),
    "cancelled by nobody": (without("asked"), "x: cancelled by nobody"),
    "left its end": (
        lambda h: h.insert(-3, {"kind": "seen", "t": 5.7, "job": "j", "status": "running"}),
        "running after succeeded",
    ),
    "another end": (lambda h: end(h).update(status="failed"), "failed after succeeded"),
    "one attempt, two claims": (lambda h: h.append(claim(4.3, 2, "w2")), "attempt 2 was claimed twice"),
    "write of a zombie": (
        lambda h: h.append(write(4.6, 1, "report", 204)),
        "report of attempt 1 was accepted after its end",
    ),
    "write after the end": (
        lambda h: h.append(write(6.0, 2, "artifacts", 204, "w1")),
        "artifacts of attempt 2 was accepted after its end",
    ),
    "taken too early": (
        lambda h: h.append(write(3.5, 1, "renew", 200)),
        "before attempt 1 was over",
    ),
    "event twice": (lambda h: end(h)["events"].insert(1, event(0, "Created")), "event e0 is there twice"),
    "step twice": (lambda h: end(h)["events"].insert(3, event(8, step=2)), "steps out of order: [1, 2, 2]"),
    "step back": (lambda h: end(h)["events"].reverse(), "steps out of order: [2, 1]"),
    "told after the end": (
        lambda h: end(h)["events"].append(event(8, "Fine-tuning job started")),
        "1 last words among 5 events",
    ),
    "two ends told": (
        lambda h: end(h)["events"].insert(3, event(8, "Fine-tuning job failed: x")),
        "2 last words",
    ),
    "stream with a gap": (lambda h: h[17]["ids"].pop(1), "a stream told other events"),
    "stream out of order": (lambda h: h[17]["ids"].reverse(), "a stream told other events"),
    "two trainers": (lambda h: h[4].update(end=5.6), "two training processes for 1.10 s"),
    "step missing": (lambda h: end(h)["events"].pop(1), "succeeded with the steps [2] of 2"),
    "other losses": (second_job_with_other("csv", "d"), "y: its csv differs from that of j"),
    "other model": (second_job_with_other("model", ["n"]), "y: its model differs"),
    "checkpoint missing": (second_job_with_other("checkpoints", []), "y: its checkpoints differs"),
    "slow takeover": (
        lambda h: [record.update(t=record["t"] + 2.0) for record in h if record.get("attempt") == 2],
        "taken over after 3.70 s",
    ),
    "no takeover": (
        lambda h: h.__setitem__(slice(None), [r for r in h if r.get("attempt") != 2]),
        "taken over after inf s",
    ),
}


def test_a_good_history_has_no_violations() -> None:
    assert find_violations(good(), LEASE) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name: str) -> None:
    plant, expected = PLANTED[name]
    history = good()
    plant(history)
    found = find_violations(history, LEASE)
    assert [line for line in found if expected in line], found


def test_a_frozen_machine_may_not_end_its_trainer_and_must_not_write() -> None:
    history = good()
    history[4]["end"] = 5.6
    history.append(fault("freeze machine"))
    assert find_violations(history, LEASE) == []
    history.append(write(4.6, 1, "report", 204))
    assert len(find_violations(history, LEASE)) == 1


def test_a_parked_job_stays_paused() -> None:
    history = good()
    events = [event(0, "Created"), event(1, step=1)]
    history[:] = [record for record in history if record["kind"] not in ("seen", "streamed")]
    end(history).update(status="paused", events=events, results=None)
    history.append({"kind": "asked", "t": 5.0, "job": "j", "action": "pause", "code": 200})
    assert find_violations(history, LEASE) == []


def test_a_finish_without_an_answer_may_have_been_done() -> None:
    history = good()
    history += [write(3.9, 1, "renew", 200), write(4.1, 1, "finish", 0)]
    assert find_violations(history, LEASE) == []


def test_takeovers_are_measured_and_calm_only_when_nothing_else_happened() -> None:
    [found] = find_takeovers(good(), LEASE)
    assert (found.job, found.calm) == ("j", True)
    assert found.seconds == pytest.approx(1.7)
    touched = [*good(), {"kind": "asked", "t": 3.0, "job": "j", "action": "pause", "code": 200}]
    nobody = [record for record in good() if record["kind"] != "idle"]
    for history in (touched, nobody):
        assert [takeover.calm for takeover in find_takeovers(history, LEASE)] == [False]


def test_a_job_that_was_lost_too_often_is_given_up() -> None:
    history = [record for record in good() if record.get("attempt") != 2 and record["kind"] != "seen"]
    assert "inf" in " ".join(find_violations(history, LEASE))
    end(history)["status"] = "failed"
    assert find_takeovers(history, LEASE) == []


def test_a_worker_that_had_given_its_job_back_is_not_taken_over_from() -> None:
    for ended in (write(2.3, 1, "finish", 204), {"kind": "idle", "t": 2.3, "worker": "w0"}):
        history = [*good(), ended]
        assert find_takeovers(history, LEASE) == []
