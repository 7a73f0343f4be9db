"""/v1/fine_tuning/jobs, and the same below /v1/fine-tuning/jobs."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import StreamingResponse

from tunewright.service.actions import act
from tunewright.service.context import ServiceArg, UserArg, look_up
from tunewright.service.creation import create_job
from tunewright.service.db.artifacts import list_checkpoints
from tunewright.service.db.database import Connection
from tunewright.service.db.events import event_number, list_events
from tunewright.service.db.jobs import find_job, list_jobs
from tunewright.service.db.pages import Page
from tunewright.service.estimates import estimate_finish
from tunewright.service.event_stream import stream_events
from tunewright.service.faults import bad_value, no_such_job
from tunewright.service.jobs import Action
from tunewright.service.openapi import SERVER_SENT, streamed
from tunewright.service.records import EventRecord, JobRecord, KeyRecord
from tunewright.service.repeats import CallerArg, RepeatArg
from tunewright.service.schemas import lists
from tunewright.service.schemas.jobs import (
    Checkpoint,
    CreateJob,
    Event,
    Job,
    checkpoint_object,
    event_object,
    job_object,
)
from tunewright.service.schemas.lists import page_of

router = APIRouter(tags=["Fine-tuning"])
PREFIXES = ("/v1/fine_tuning/jobs", "/v1/fine-tuning/jobs")

JobId = Annotated[str, Path(description="Id of the job.")]
LimitArg = Annotated[int, Query(ge=1, le=100, description="Objects on a page.")]
AfterArg = Annotated[str | None, Query(description="The page after the object with this id.")]
EVENT_STREAM = streamed(Event, "A page, or a stream")
_FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)


@router.post("")
def create(body: CreateJob, service: ServiceArg, key: UserArg, repeat: RepeatArg, _there: CallerArg) -> Job:
    """Queue a job. The same call sent again after a lost answer gives the first one's job."""
    return job_object(create_job(service, key, body, repeat))


@router.get("")
def list_(
    request: Request, service: ServiceArg, key: UserArg, limit: LimitArg = 20, after: AfterArg = None
) -> lists.Page[Job]:
    """The project's jobs, newest first. `metadata[k]=v` filters, `metadata=null` takes those without."""
    wanted = _metadata_filter(request)
    with service.database.read() as connection:
        found = list_jobs(connection, key.project, wanted, Page(limit, after))
        shown = [_shown(connection, job) for job in found[0]] if found else []
    if found is None:
        raise bad_value(f"'after' names no job of this list: {after}", "after")
    return page_of(shown, found[1])


@router.get("/{job_id}")
async def retrieve(job_id: JobId, service: ServiceArg, key: UserArg) -> Job:
    """One job."""
    return await look_up(service, lambda connection: _shown(connection, _found(connection, key, job_id)))


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, service: ServiceArg, key: UserArg) -> Job:
    """End a job now. Its worker stops training within seconds."""
    return _act(service, key, job_id, Action.CANCEL)


@router.post("/{job_id}/pause")
def pause(job_id: JobId, service: ServiceArg, key: UserArg) -> Job:
    """Stop a job after its next step, with everything saved."""
    return _act(service, key, job_id, Action.PAUSE)


@router.post("/{job_id}/resume")
def resume(job_id: JobId, service: ServiceArg, key: UserArg) -> Job:
    """Queue a paused job again; it goes on where it stopped."""
    return _act(service, key, job_id, Action.RESUME)


@router.get("/{job_id}/events", response_model=lists.Page[Event], responses=EVENT_STREAM)
async def events(
    job_id: JobId,
    service: ServiceArg,
    key: UserArg,
    limit: LimitArg = 20,
    after: AfterArg = None,
    stream: Annotated[bool, Query(description="Send events as they come, oldest first.")] = False,
    last_event_id: Annotated[
        str | None, Header(description="As `after`, for a stream that is taken up again.")
    ] = None,
) -> lists.Page[Event] | StreamingResponse:
    """What happened to a job, newest first. With `stream` it is told as server-sent events, oldest first,
    from the first one or from behind `after` to the end of the job, and closed with `[DONE]`."""
    if stream:
        after = after or last_event_id
        service.traffic.streams.check(key, service.settings.limits.key_streams)

    def question(connection: Connection) -> tuple[int | None, tuple[list[EventRecord], bool] | None]:
        job = _found(connection, key, job_id)
        behind = event_number(connection, job.id, after) if after else 0
        return behind, None if stream else list_events(connection, job.id, limit, after)

    behind, found = await look_up(service, question)
    if behind is None:
        raise bad_value(f"'after' names no event of this job: {after}", "after")
    if found is None:
        lines = stream_events(service, key, job_id, behind)
        lines = service.traffic.streams.count(key, lines)
        return StreamingResponse(lines, media_type=SERVER_SENT, headers={"x-accel-buffering": "no"})
    return page_of([event_object(event) for event in found[0]], found[1])


@router.get("/{job_id}/checkpoints")
def checkpoints(
    job_id: JobId, service: ServiceArg, key: UserArg, limit: LimitArg = 10, after: AfterArg = None
) -> lists.Page[Checkpoint]:
    """Models saved on the way, newest first."""
    with service.database.read() as connection:
        found = list_checkpoints(connection, _found(connection, key, job_id).id, Page(limit, after))
    if found is None:
        raise bad_value(f"'after' names no checkpoint of this job: {after}", "after")
    return page_of([checkpoint_object(item) for item in found[0]], found[1])


def _act(service: ServiceArg, key: KeyRecord, job_id: str, action: Action) -> Job:
    with service.database.write() as connection:
        job = find_job(connection, key.project, job_id, for_change=True)
        if job is None:
            raise no_such_job(job_id)
        act(connection, job, action)
        return _shown(connection, _found(connection, key, job_id))


def _shown(connection: Connection, job: JobRecord) -> Job:
    return job_object(job, estimate_finish(connection, job))


def _found(connection: Connection, key: KeyRecord, job_id: str) -> JobRecord:
    job = find_job(connection, key.project, job_id)
    if job is None:
        raise no_such_job(job_id)
    return job


def _metadata_filter(request: Request) -> dict[str, str] | None:
    query = request.query_params
    given = query.get("metadata")
    if given == "null":
        return {}
    if given is not None:
        raise bad_value("Write 'metadata[KEY]=VALUE' to filter, or 'metadata=null'", "metadata")
    found = {match[1]: value for name, value in query.items() if (match := _FILTER.fullmatch(name))}
    return found or None
