"""The events of a job as server-sent events: those that were, then those that come, until the job is over."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator

import anyio
from anyio import to_thread

from tunewright.service.context import Service
from tunewright.service.db.database import DATABASE_AWAY
from tunewright.service.db.events import events_behind
from tunewright.service.db.jobs import find_job
from tunewright.service.db.keys import is_live
from tunewright.service.jobs import TERMINAL
from tunewright.service.records import EventRecord, KeyRecord
from tunewright.service.schemas.jobs import event_object

log = logging.getLogger("tunewright.service")

POLL_SECONDS = 0.5
PING_SECONDS = 15.0
"""A line goes out at least so often: proxies cut connections that are silent for a minute."""
EVENTS_READ = 500
DONE = b"data: [DONE]\n\n"


async def stream_events(service: Service, key: KeyRecord, job_id: str, behind: int) -> AsyncIterator[bytes]:
    """Events with a number above `behind`, oldest first. Ends with [DONE] when the job is over and all are
    told, and without it when the server stops, its database is away, or the key is revoked or expires: a
    client comes back with the id of the last one, and is told why it is refused if it is."""
    told = time.monotonic()
    while not service.stopping.is_set():
        try:
            found = await to_thread.run_sync(_read, service, key, job_id, behind)
        except DATABASE_AWAY:
            log.error("the database does not answer: a stream of events ends early")
            return
        if found is None:
            return
        is_over, events = found
        for event in events:
            behind = event.seq
            yield f"id: {event.id}\ndata: {event_object(event).model_dump_json()}\n\n".encode()
        if events:
            told = time.monotonic()
            continue
        if is_over:
            yield DONE
            return
        if time.monotonic() - told >= PING_SECONDS:
            told = time.monotonic()
            yield b": ping\n\n"
        await anyio.sleep(POLL_SECONDS)


def _read(
    service: Service, key: KeyRecord, job_id: str, behind: int
) -> tuple[bool, list[EventRecord]] | None:
    """Whether the job is over, and its events; None when the key is not good any more."""
    with service.database.read() as connection:
        if not is_live(connection, key.id):
            return None
        # The job first: nothing is told after its end, so that no event can slip in between.
        job = find_job(connection, key.project, job_id)
        return job is None or job.status in TERMINAL, events_behind(connection, job_id, behind, EVENTS_READ)
