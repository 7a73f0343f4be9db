"""What becomes of a job when an attempt at it ends: by a worker's word, or because its lease ran out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunewright.errors import ExitCode
from tunewright.service.db.artifacts import drop_states
from tunewright.service.db.database import Connection, clock, steady_clock
from tunewright.service.db.events import NewEvent, add_events, count_trained_tokens
from tunewright.service.db.files import find_stored_file
from tunewright.service.db.machines import live_machines
from tunewright.service.db.queue import end_attempt, lock_expired
from tunewright.service.faults import BAD_FILE
from tunewright.service.jobs import TERMINAL, Action, Status, next_status
from tunewright.service.records import JobRecord
from tunewright.service.retry import WORKER_LOST, judge
from tunewright.service.run_settings import resolve_hyperparameters
from tunewright.service.schemas.lease import Finish
from tunewright.service.settings import Limits

_WORKERS_NAME = re.compile(r"\b(training|validation)\.(?:jsonl|csv|parquet)\b")
TOO_LARGE = "config.memory"
"""What a run says that does not fit into the memory of its device."""


def finish_attempt(
    connection: Connection, job: JobRecord, told: Finish, limits: Limits, result_files: tuple[str, ...]
) -> None:
    """Close an attempt as its worker reports. The caller holds the job; result_files are stored already."""
    if job.status is Status.CANCELLED:
        end_attempt(connection, job, told.outcome, told.exit_code)
    elif told.outcome == "validated":
        _validated(connection, job, told, limits)
    elif told.outcome == "succeeded":
        _succeeded(connection, job, told, result_files)
    elif told.outcome == "stopped":
        _stopped(connection, job, told)
    else:
        _failed(connection, job, told)


def release_expired(connection: Connection) -> int:
    """Take jobs back from workers that let their lease run out; returns how many."""
    expired = lock_expired(connection)
    for job in expired:
        if job.status is Status.CANCELLED:
            end_attempt(connection, job, "lost", None)
        else:
            _failed(connection, job, _LOST)
    return len(expired)


_LOST = Finish(outcome="failed", message="The worker was lost", code=WORKER_LOST)


def _validated(connection: Connection, job: JobRecord, told: Finish, limits: Limits) -> None:
    checked = told.checked or {}
    rows, cut, dropped = (int(checked.get(name, 0)) for name in ("train_rows", "rows_cut", "rows_dropped"))
    if rows < limits.examples:
        message = (
            f"The training file has {rows} example{'s' if rows != 1 else ''} that can be trained on, "
            f"but at least {limits.examples} are needed"
        )
        if dropped:
            message += f". {dropped} more are too long; raise seq_len if the model allows it"
        few = told.model_copy(update={"code": BAD_FILE, "message": message, "param": "training_file"})
        _give_up(connection, job, few)
        return
    _end(
        connection,
        job,
        told,
        Action.VALIDATED,
        checked=told.checked,
        failures=0,
        hyperparameters=resolve_hyperparameters(job.hyperparameters, rows),
    )
    events: list[NewEvent] = []
    all_rows = rows + dropped
    if cut:
        text = (
            f"{cut} of {all_rows} training examples are longer than the model's limit and are cut at the end"
        )
        events.append(NewEvent(text, level="warn", fact="cut"))
    if dropped:
        text = f"{dropped} of {all_rows} training examples are too long to learn from and are left out"
        events.append(NewEvent(text, level="warn", fact="dropped"))
    events.append(NewEvent("Files validated, moving job to queued state", fact="validated"))
    add_events(connection, job.id, events)


def _succeeded(connection: Connection, job: JobRecord, told: Finish, files: tuple[str, ...]) -> None:
    name = job.request["model_name"]
    _end(
        connection,
        job,
        told,
        Action.SUCCEEDED,
        finished_at=clock(connection),
        fine_tuned_model=name,
        trained_tokens=count_trained_tokens(connection, job.id),
        result_files=list(files),
        step=told.step,
    )
    done = "The job has successfully completed"
    add_events(
        connection, job.id, [NewEvent(f"New fine-tuned model created: {name}"), NewEvent(done, fact="done")]
    )


def _stopped(connection: Connection, job: JobRecord, told: Finish) -> None:
    _end(connection, job, told, Action.STOPPED, failures=0, wanted="run")
    paused = job.status is Status.PAUSING
    text = "Fine-tuning job paused"
    if not paused:
        text = "The worker stopped; the job waits for another one"
        if job.place is not None:
            text += " that trains with {} on {}".format(*job.place.split("/"))
    add_events(connection, job.id, [NewEvent(text)])


def _failed(connection: Connection, job: JobRecord, told: Finish) -> None:
    if (too_few := _exceeded_memory(connection, job, told)) is not None:
        now = steady_clock(connection)
        _end(connection, job, told, Action.STOPPED, memory_over=too_few, not_before=now, wanted="run")
        message = f"{told.message or 'It needs more memory'}: it waits for a worker with more memory"
        add_events(connection, job.id, [NewEvent(message, level="warn")])
        return
    verdict = judge(told.exit_code, told.code, job.failures)
    if not verdict.again:
        _give_up(connection, job, told)
        return
    later = steady_clock(connection) + verdict.delay_seconds
    paused = job.status is Status.PAUSING
    _end(connection, job, told, Action.STOPPED, failures=job.failures + 1, not_before=later, wanted="run")
    then = "it is paused" if paused else "trying again from the last checkpoint"
    message = f"{told.message or 'The attempt failed'}: {then}"
    add_events(connection, job.id, [NewEvent(message, level="warn")])


def _exceeded_memory(connection: Connection, job: JobRecord, told: Finish) -> int | None:
    """Bytes that were too few for the job, if that ended the attempt and a worker with more is there."""
    is_too_large = told.code == TOO_LARGE or told.exit_code == ExitCode.OUT_OF_MEMORY
    if job.status is Status.VALIDATING or not is_too_large:
        return None
    sizes = {worker: machine.memory_at(job.place) for worker, machine in live_machines(connection).items()}
    had = sizes.get(job.lease_worker or "", 0)
    return had if had and max(sizes.values()) > had else None


def _give_up(connection: Connection, job: JobRecord, told: Finish) -> None:
    error: Mapping[str, Any] = {
        "code": told.code or "internal_error",
        "message": _with_names(connection, job, told.message or "The job failed"),
        "param": told.param,
    }
    now = clock(connection)
    _end(connection, job, told, Action.FAILED, finished_at=now, error=error)
    text = f"Fine-tuning job failed: {error['message']}"
    add_events(connection, job.id, [NewEvent(text, level="error", fact="failed")])


def _with_names(connection: Connection, job: JobRecord, message: str) -> str:
    """The message with the files called as their owner does; a worker has names of its own for them."""
    files = {"training": job.training_file, "validation": job.validation_file}

    def name(match: re.Match[str]) -> str:
        file_id = files[match[1]]
        return f"{find_stored_file(connection, file_id).filename} ({file_id})" if file_id else match[0]

    return _WORKERS_NAME.sub(name, message)


def _end(connection: Connection, job: JobRecord, told: Finish, action: Action, **values: Any) -> None:
    status = next_status(job.status, action)
    if status is None:
        raise AssertionError(f"{action} of a job that is {job.status}")
    if status in TERMINAL:
        drop_states(connection, job.id)
    outcome = "lost" if told is _LOST else told.outcome
    end_attempt(connection, job, outcome, told.exit_code, status=status.value, **values)
