"""/worker: the calls by which workers claim jobs and report on them. Not for users: needs the worker scope.

Every write about a job goes through `_held`, which locks its row and refuses an attempt whose lease is over.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse

from tunewright.service.artifacts import check_stored, new_artifact
from tunewright.service.context import Service, ServiceArg, worker_key
from tunewright.service.db.artifacts import keep_newest, newest_state, put_artifact
from tunewright.service.db.blobs import known_blobs
from tunewright.service.db.database import Connection, clock
from tunewright.service.db.events import NewEvent, add_events, record_metrics
from tunewright.service.db.jobs import change_job
from tunewright.service.db.queue import claim_job, hold_job, note_worker, renew_lease
from tunewright.service.envelope import UNLIMITED
from tunewright.service.faults import ApiError, lease_lost
from tunewright.service.inference.model_server import ModelServerArg
from tunewright.service.inference.training import make_way
from tunewright.service.jobs import Action, Status, next_status
from tunewright.service.leases import build_lease, named_hashes
from tunewright.service.outcomes import finish_attempt, release_expired
from tunewright.service.records import JobRecord, Machine
from tunewright.service.result_files import record_results, write_results
from tunewright.service.schemas.lease import (
    ATTEMPT_HEADER,
    BlobList,
    Claim,
    Finish,
    Lease,
    NewArtifact,
    Renewed,
    Report,
)
from tunewright.service.stored import record_blob

log = logging.getLogger("tunewright.service")

# Workers are trusted, and send checkpoints and reports of any size.
router = APIRouter(
    prefix="/worker", tags=["Workers"], dependencies=[Depends(worker_key)], max_body_size=UNLIMITED
)

AttemptArg = Annotated[int, Header(alias=ATTEMPT_HEADER, ge=1)]


@router.post("/claim", response_model=Lease, responses={204: {"description": "Nothing waits"}})
def claim(body: Claim, service: ServiceArg, models: ModelServerArg) -> Lease | Response:
    """Give the worker a job, or 204."""
    seconds = service.settings.lease_seconds
    with service.database.write() as connection:
        release_expired(connection)
        told = body.capabilities
        note_worker(connection, body.worker, body.name, told.model_dump())
        job = claim_job(
            connection,
            body.worker,
            seconds,
            service.settings.limits.project_running,
            Machine(told.places),
            # Of a base that this server does not offer any more, nothing could be told to a worker.
            service.settings.models.keys(),
            body.phase,
        )
        if job is None:
            # Seldom enough for many workers, often enough to take a lost job over soon after its lease.
            return Response(status_code=204, headers={"retry-after": f"{min(1.0, seconds / 10):g}"})
        lease = build_lease(service, connection, job)
        if job.status is Status.QUEUED:
            _begin(connection, job)
    # Before the worker knows of it: what it starts needs the whole accelerator.
    make_way(service, models.process)
    return lease


@router.post("/jobs/{job_id}/renew")
def renew(job_id: str, service: ServiceArg, attempt: AttemptArg) -> Renewed:
    """Let the lease run on, and say what the owner of the job wants."""
    with _held(service, job_id, attempt) as (connection, job):
        renew_lease(connection, job, service.settings.lease_seconds)
    return Renewed(wanted=job.wanted)


@router.post("/jobs/{job_id}/report", status_code=204)
def report(job_id: str, body: Report, service: ServiceArg, attempt: AttemptArg) -> None:
    """Append events and figures of a run."""
    with _held(service, job_id, attempt) as (connection, job):
        if job.status is Status.CANCELLED:
            return
        add_events(connection, job.id, [NewEvent(**event.model_dump()) for event in body.events])
        record_metrics(connection, job.id, attempt, body.metrics)
        values = {
            "step": max(job.step, body.step or 0),
            "total_steps": body.total_steps or job.total_steps,
        }
        change_job(connection, job.id, **values)


@router.post("/blobs/missing")
def missing(body: BlobList, service: ServiceArg) -> BlobList:
    """Those of these hashes whose bytes have to be sent."""
    wanted = set(body.sha256)
    with service.database.write() as connection:
        known = known_blobs(connection, wanted)
    return BlobList(sha256=sorted(wanted - {sha for sha in known if service.blobs.has(sha)}))


@router.put("/blobs/{sha256}", status_code=204)
async def store_blob(sha256: str, request: Request, service: ServiceArg) -> None:
    """Store bytes under their hash. Raises ApiError 400 when they have another one."""
    writer = await to_thread.run_sync(service.blobs.writer)
    try:
        async for chunk in request.stream():
            await to_thread.run_sync(writer.write, chunk)
        found = await to_thread.run_sync(writer.commit)
    finally:
        await to_thread.run_sync(writer.abort)
    await to_thread.run_sync(record_blob, service, found, writer.size)
    if found != sha256:
        raise ApiError(400, "The bytes have another hash than their name", code="wrong_hash")


@router.get("/jobs/{job_id}/blobs/{sha256}")
def read_blob(job_id: str, sha256: str, service: ServiceArg, attempt: AttemptArg) -> StreamingResponse:
    """The bytes of a file that the job's lease names."""
    with _held(service, job_id, attempt) as (connection, job):
        if job.status is Status.CANCELLED:
            # Its owner may have deleted the files by now, and nobody needs them.
            raise ApiError(404, "The job was cancelled", code="no_such_blob")
        named = named_hashes(connection, job)
    if sha256 not in named:
        raise ApiError(404, "The lease names no such bytes", code="no_such_blob")
    try:
        chunks = service.blobs.read(sha256)
    except KeyError as error:
        # No waiting helps: after a 500 the worker would ask again for as long as its lease runs.
        log.error("%s: bytes that it needs are missing from the blob store: %s", job_id, sha256)
        raise ApiError(404, "The server has lost these bytes", code="no_such_blob") from error
    return StreamingResponse(chunks, media_type="application/octet-stream")


@router.post("/jobs/{job_id}/artifacts", status_code=204)
def add_artifact(job_id: str, body: NewArtifact, service: ServiceArg, attempt: AttemptArg) -> None:
    """Record a folder of the run whose bytes are stored, unless the job was cancelled meanwhile."""
    with _held(service, job_id, attempt) as (connection, job):
        if job.status is Status.CANCELLED:
            return
        check_stored(service, connection, body)
        known = newest_state(connection, job.id)
        put_artifact(connection, new_artifact(connection, job, body))
        if body.kind == "state":
            keep_newest(connection, job.id, "state", 1)
            if known is None or body.step > known.step:
                # An attempt that got further is no failure in a row; one that only sends again what was
                # known is.
                change_job(connection, job.id, failures=0, place=body.place)
        if body.kind == "checkpoint":
            keep_newest(connection, job.id, "checkpoint", service.settings.limits.checkpoints_kept)


@router.post("/jobs/{job_id}/finish", status_code=204)
def finish(job_id: str, body: Finish, service: ServiceArg, attempt: AttemptArg) -> None:
    """Close the attempt."""
    with _held(service, job_id, attempt) as (_, job):
        succeeded = body.outcome == "succeeded" and job.status is not Status.CANCELLED
    # In between the job may be lost or cancelled: what was written then is nobody's, and goes after a while.
    written = write_results(service, job_id) if succeeded else []
    with _held(service, job_id, attempt) as (connection, job):
        kept = [] if job.status is Status.CANCELLED else written
        files = record_results(service, connection, job, kept)
        finish_attempt(connection, job, body, service.settings.limits, files)


def _begin(connection: Connection, job: JobRecord) -> None:
    status = next_status(job.status, Action.CLAIMED)
    now = clock(connection)
    change_job(connection, job.id, status=str(status), wanted="run", started_at=job.started_at or now)
    text = "Fine-tuning job started" if job.started_at is None else "Fine-tuning job goes on"
    add_events(connection, job.id, [NewEvent(text)])


@contextmanager
def _held(service: Service, job_id: str, attempt: int) -> Generator[tuple[Connection, JobRecord]]:
    with service.database.write() as connection:
        job = hold_job(connection, job_id, attempt)
        if job is None:
            raise lease_lost(job_id)
        yield connection, job
