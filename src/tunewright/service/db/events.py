"""Events and step metrics of jobs: appended by whoever holds the job's row, never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from tunewright.service.db.database import clock
from tunewright.service.db.rows import to_event
from tunewright.service.db.tables import events, jobs, metrics
from tunewright.service.ids import EVENT, new_id
from tunewright.service.records import EventRecord


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append. fact: what it tells; a job tells each fact once. None is always told."""

    message: str
    level: str = "info"
    type: str = "message"
    data: Mapping[str, Any] | None = None
    fact: str | None = None
    created_at: float | None = None


def add_events(connection: Connection, job_id: str, new: Sequence[NewEvent]) -> None:
    """Append events. The caller holds the job's row, which keeps the numbers without gaps."""
    facts = {event.fact for event in new if event.fact is not None}
    told = connection.execute(
        select(events.c.fact).where(events.c.job_id == job_id, events.c.fact.in_(facts))
    )
    known = set(told.scalars())
    rows: list[dict[str, Any]] = []
    last = connection.execute(select(jobs.c.last_event).where(jobs.c.id == job_id)).scalar_one()
    now = clock(connection)
    for event in new:
        if event.fact is not None and event.fact in known:
            continue
        known.add(event.fact)
        last += 1
        rows.append(
            {
                "job_id": job_id,
                "seq": last,
                "id": new_id(EVENT),
                "created_at": event.created_at or now,
                "level": event.level,
                "message": event.message,
                "type": event.type,
                "data": event.data,
                "fact": event.fact,
            }
        )
    if rows:
        connection.execute(insert(events), rows)
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(last_event=last))


# Made once, as in keys.py: clients that watch a job ask for them again and again.
_OF_JOB = events.c.job_id == bindparam("job")
_NUMBER = select(events.c.seq).where(_OF_JOB, events.c.id == bindparam("event"))
_BEFORE = (
    select(events)
    .where(_OF_JOB, events.c.seq < bindparam("number"))
    .order_by(events.c.seq.desc())
    .limit(bindparam("most"))
)
_BEHIND = (
    select(events)
    .where(_OF_JOB, events.c.seq > bindparam("number"))
    .order_by(events.c.seq)
    .limit(bindparam("most"))
)
_NEWEST_PACES = (
    select(metrics.c.figures["step_seconds"].as_float())
    .where(metrics.c.job_id == bindparam("job"))
    .order_by(metrics.c.step.desc())
    .limit(bindparam("most"))
)
_BEYOND_ALL = 2**31 - 1
METRICS_READ = 500


def list_events(
    connection: Connection, job_id: str, limit: int, after: str | None
) -> tuple[list[EventRecord], bool] | None:
    """Events newest first, from behind `after`, and whether there are more; None for an unknown `after`."""
    last = _BEYOND_ALL if after is None else event_number(connection, job_id, after)
    if last is None:
        return None
    rows = connection.execute(_BEFORE, {"job": job_id, "number": last, "most": limit + 1}).mappings()
    found = [to_event(row) for row in rows]
    return found[:limit], len(found) > limit


def event_number(connection: Connection, job_id: str, event_id: str) -> int | None:
    """The number of an event of this job; None for an unknown id."""
    return connection.execute(_NUMBER, {"job": job_id, "event": event_id}).scalar_one_or_none()


def events_behind(connection: Connection, job_id: str, number: int, limit: int) -> list[EventRecord]:
    """Events with a higher number, oldest first."""
    rows = connection.execute(_BEHIND, {"job": job_id, "number": number, "most": limit}).mappings()
    return [to_event(row) for row in rows]


def record_metrics(
    connection: Connection, job_id: str, attempt: int, steps: Mapping[int, Mapping[str, Any]]
) -> None:
    """Store the figures of steps. A step that is trained again replaces what was known of it."""
    if not steps:
        return
    query = select(metrics.c.step, metrics.c.figures).where(metrics.c.job_id == job_id)
    known = {row[0]: row[1] for row in connection.execute(query.where(metrics.c.step.in_(sorted(steps))))}
    new = [
        {"job_id": job_id, "step": step, "attempt": attempt, "figures": dict(figures)}
        for step, figures in sorted(steps.items())
        if step not in known
    ]
    if new:
        connection.execute(insert(metrics), new)
    for step, figures in sorted(known.items()):
        here = (metrics.c.job_id == job_id) & (metrics.c.step == step)
        values = {"attempt": attempt, "figures": {**figures, **steps[step]}}
        connection.execute(update(metrics).where(here).values(**values))


def read_metrics(connection: Connection, job_id: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Steps in rising order with their figures, some at a time: all of a long job would take 100 MiB."""
    query = select(metrics.c.step, metrics.c.figures).where(metrics.c.job_id == job_id)
    rows = connection.execute(query.order_by(metrics.c.step), execution_options={"yield_per": METRICS_READ})
    for row in rows:
        yield row[0], row[1]


def read_paces(connection: Connection, job_id: str, limit: int) -> list[float]:
    """Seconds that each of the last steps took, where they are known."""
    found = connection.execute(_NEWEST_PACES, {"job": job_id, "most": limit}).scalars()
    return [seconds for seconds in found if seconds is not None]


def read_step(connection: Connection, job_id: str, step: int) -> Mapping[str, Any]:
    """Figures of one step; empty when there are none."""
    query = select(metrics.c.figures).where(metrics.c.job_id == job_id, metrics.c.step == step)
    return connection.execute(query).scalar_one_or_none() or {}


def count_trained_tokens(connection: Connection, job_id: str) -> int:
    """Labels that the steps of a job learned from, each step once."""
    # By the database: all figures of a job of 50,000 steps would take 100 MiB here.
    tokens = func.sum(metrics.c.figures["loss_tokens"].as_float())
    return int(connection.execute(select(tokens).where(metrics.c.job_id == job_id)).scalar_one() or 0)
