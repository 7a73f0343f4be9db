"""From a run's events to what the API tells: words, figures, and each fact once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.service.results import all_metrics_csv, result_csv
from tunewright.service.schemas.lease import Report
from tunewright.service.wording import metrics_message
from tunewright.service.worker.tail import EventTail
from tunewright.service.worker.translate import Translator
from tunewright.train.guard import Guard
from tunewright.train.progress import Progress
from tunewright.types import LossSums, StepStats

TIME = "2026-01-01T00:00:00+00:00"


def event(kind: str, step: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": kind, "step": step, "time": TIME, **more}


def step(number: int, loss: float = 1.0) -> dict[str, Any]:
    return event("step", number, loss=loss, token_accuracy=0.5, learning_rate=1e-3)


START = event("run_started", total_steps=4)


def messages(report: Report) -> list[str]:
    return [told.message for told in report.events]


def test_steps_are_told_in_openais_words() -> None:
    report = Translator(0).report([START, step(1, 2.345), step(2)])
    assert messages(report) == ["Step 1/4: training loss=2.35", "Step 2/4: training loss=1.00"]
    assert report.events[0].data == {
        "step": 1,
        "total_steps": 4,
        "train_loss": 2.345,
        "train_mean_token_accuracy": 0.5,
        "learning_rate": 1e-3,
    }
    assert (report.step, report.total_steps) == (2, 4)
    assert report.metrics[2] == {"loss": 1.0, "token_accuracy": 0.5, "learning_rate": 1e-3}


def test_a_step_that_is_evaluated_is_told_with_its_evaluation() -> None:
    translator = Translator(2)
    assert messages(translator.report([START, step(1), step(2)])) == ["Step 1/4: training loss=1.00"]
    evaluated = event("evaluation", 2, valid_loss=0.5, valid_token_accuracy=0.25)
    report = translator.report([evaluated, step(3)])
    assert messages(report) == [
        "Step 2/4: training loss=1.00, validation loss=0.50, full validation loss=0.50",
        "Step 3/4: training loss=1.00",
    ]
    data = report.events[0].data
    assert data
    assert (data["valid_loss"], data["full_valid_mean_token_accuracy"]) == (0.5, 0.25)


@pytest.mark.parametrize("end", [step(3), event("run_finished", 2, outcome="stopped")])
def test_a_step_whose_evaluation_never_came_is_told_without(end: dict[str, Any]) -> None:
    translator = Translator(2)
    translator.report([START, step(1), step(2)])
    assert messages(translator.report([end]))[0] == "Step 2/4: training loss=1.00"


def test_the_same_step_has_the_same_fact_in_every_attempt() -> None:
    facts = [Translator(0).report([START, step(1, loss)]).events[0].fact for loss in (1.0, 2.0)]
    assert facts == ["step:1", "step:1"]


def test_a_run_that_goes_on_from_its_last_step_has_that_step() -> None:
    """Its log may begin on this machine, and what is left to do is the export."""
    translator = Translator(0)
    report = translator.report([event("resumed", 4, from_step=4), event("run_finished", 4)])
    assert (report.step, messages(report)) == (4, ["Resumed from step 4"])


def test_warnings_are_told_without_the_folder() -> None:
    translator = Translator(0, hidden="/secret/place/")
    report = translator.report(
        [
            event("warning", 1, message="row 3 of /secret/place/training.jsonl was cut"),
            event("resumed", 2, from_step=2),
            event("rolled_back", 3, reason="three bad steps"),
            event("amended", 3, reason="micro_batch_size 2"),
            event("checkpoint", 3, path="x"),
        ]
    )
    assert [(told.level, told.message) for told in report.events] == [
        ("warn", "row 3 of training.jsonl was cut"),
        ("info", "Resumed from step 2"),
        ("warn", "Went back to step 3: three bad steps"),
        ("warn", "Settings of the run were amended: micro_batch_size 2"),
    ]
    assert len({told.fact for told in report.events}) == 4


def test_what_was_found_in_the_rows_is_one_event_of_the_job_however_often_it_starts() -> None:
    found = {"severity": "warning", "code": "data.cut", "what": "rows cut", "count": 2, "where": []}
    fields = {"message": "warning: rows cut: 2 (/secret/place/a.jsonl: 1, 2)", "at_end": False}
    log = [event("data", 0, findings=[found], **fields), event("data", 3, findings=[found], **fields)]
    told = Translator(0, hidden="/secret/place/").report([*log, event("data", 4, findings=[], **fields)])
    assert {(one.level, one.message, one.fact) for one in told.events} == {
        ("warn", "Data: warning: rows cut: 2 (a.jsonl: 1, 2)", "data")
    }


@given(st.lists(st.integers(0, 6), max_size=6))
def test_how_the_log_is_read_changes_nothing(cuts: Sequence[int]) -> None:
    log = [
        START,
        step(1),
        step(2),
        event("evaluation", 2, valid_loss=0.5),
        step(3),
        step(4),
        event("evaluation", 4, valid_loss=0.4),
    ]
    whole = Translator(2).report(log)
    pieces = Translator(2)
    told: list[Any] = []
    metrics: dict[int, dict[str, Any]] = {}
    borders = [0, *sorted(cuts), len(log)]
    for low, high in pairwise(borders):
        part = pieces.report(log[low:high])
        told += part.events
        for number, figures in part.metrics.items():
            metrics[number] = {**metrics.get(number, {}), **figures}
    assert told == whole.events
    assert metrics == whole.metrics


def test_numbers_have_two_places() -> None:
    assert metrics_message(3, 9, {}) == "Step 3/9: "
    assert metrics_message(3, 9, {"loss": 0.004}) == "Step 3/9: training loss=0.00"


def test_the_tail_waits_for_the_end_of_a_line_and_passes_over_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    first, second = json.dumps(step(1)), json.dumps(step(2))
    path.write_text(f"{first}\n{second[:9]}")
    assert [found["step"] for found in tail.read()] == [1]
    assert tail.read() == []
    with path.open("a") as file:
        file.write(f'{second[9:]}\n{{"torn\n[]\n{{}}\n{first}\n')
    assert [found["step"] for found in tail.read()] == [2, 1]


def test_result_files_are_whole_csv() -> None:
    figures = {1: {"loss": 0.5, "token_accuracy": 0.25}, 2: {"loss": 0.25, "valid_loss": 1.0, "odd": None}}
    assert b"".join(result_csv(figures.items())) == (
        b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.5,0.25,,\n2,0.25,,1.0,\n"
    )
    assert b"".join(all_metrics_csv(["loss", "token_accuracy", "valid_loss", "odd"], figures.items())) == (
        b"step,loss,token_accuracy,valid_loss,odd\n1,0.5,0.25,,\n2,0.25,,1.0,\n"
    )
    assert b"".join(result_csv([])).count(b"\n") == 1


@pytest.mark.parametrize(("count", "counts"), [(1, []), (2, [2]), (10, [10]), (250, [10, 100, 250])])
def test_steps_that_jump_do_not_bury_the_other_events(count: int, counts: list[int]) -> None:
    """The warning is the guard's own, so that another wording there is noticed."""
    guard = Guard("warn")
    for number in range(1, 41):
        guard.check(Progress(step=number), StepStats(LossSums(1.0, 1.0, 1, 0), 1.0, False, False))
    warning = guard.check(Progress(step=41), StepStats(LossSums(9.0, 1.0, 1, 0), 1.0, False, False))
    assert warning
    jumps = [event("warning", number, message=warning) for number in range(41, 41 + count)]
    end = event("run_finished", 40 + count, outcome="completed")
    report = Translator(0).report([START, *jumps, end])
    assert messages(report) == [
        warning,
        *(f"{number} steps jumped up to step {40 + number}" for number in counts),
    ]
    assert len({told.fact for told in report.events}) == len(report.events)
