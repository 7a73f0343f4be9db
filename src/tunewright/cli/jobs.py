"""`tunewright jobs`: the jobs of a server, for a terminal."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from tunewright.cli.service import SERVER, UserKeyOption, UserServerOption, check_installed, require_key

_Job = Annotated[str, typer.Argument(help="Id of the job, ftjob-….")]
WATCH_SECONDS = 2.0
EVENTS_READ = 100
OVER = ("succeeded", "failed", "cancelled")


def list_(
    server: UserServerOption = SERVER,
    key: UserKeyOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Newest jobs shown.")] = 20,
) -> None:
    """List the newest jobs."""
    for job in _call(server, key, "GET", f"?limit={limit}")["data"]:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(job["created_at"]))
        typer.echo(f"{job['id']}  {job['status']:<16} {created}  {job['fine_tuned_model'] or job['model']}")


def show(job_id: _Job, server: UserServerOption = SERVER, key: UserKeyOption = None) -> None:
    """Print a job as JSON."""
    typer.echo(json.dumps(_call(server, key, "GET", f"/{job_id}"), indent=2, ensure_ascii=False))


def watch(job_id: _Job, server: UserServerOption = SERVER, key: UserKeyOption = None) -> None:
    """Print the events of a job until it is over. Exit code 1 unless it succeeded."""
    seen: set[str] = set()
    while True:
        # The job first: an event that comes in between is seen in the same round.
        job = _call(server, key, "GET", f"/{job_id}")
        for event in reversed(_new_events(server, key, job_id, seen)):
            clock = time.strftime("%H:%M:%S", time.localtime(event["created_at"]))
            typer.echo(f"{clock} {event['level']:<5} {event['message']}")
        if job["status"] in OVER:
            typer.echo(f"{job_id}: {job['status']}")
            raise typer.Exit(0 if job["status"] == "succeeded" else 1)
        time.sleep(WATCH_SECONDS)


def _new_events(server: str, key: str | None, job_id: str, seen: set[str]) -> list[dict[str, Any]]:
    """Events that are not in `seen`, newest first; they are added to it."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = _call(server, key, "GET", f"/{job_id}/events?limit={EVENTS_READ}{after}")
        new = [event for event in page["data"] if event["id"] not in seen]
        found += new
        seen.update(event["id"] for event in new)
        if not page["has_more"] or len(new) < len(page["data"]):
            return found
        after = f"&after={page['last_id']}"


def cancel(job_id: _Job, server: UserServerOption = SERVER, key: UserKeyOption = None) -> None:
    """Cancel a job."""
    _act(server, key, job_id, "cancel")


def pause(job_id: _Job, server: UserServerOption = SERVER, key: UserKeyOption = None) -> None:
    """Stop a job after its next step, with everything saved."""
    _act(server, key, job_id, "pause")


def resume(job_id: _Job, server: UserServerOption = SERVER, key: UserKeyOption = None) -> None:
    """Queue a paused job again; it goes on where it stopped."""
    _act(server, key, job_id, "resume")


def _act(server: str, key: str | None, job_id: str, action: str) -> None:
    job = _call(server, key, "POST", f"/{job_id}/{action}")
    typer.echo(f"{job['id']}: {job['status']}")


def _call(server: str, key: str | None, method: str, path: str) -> Any:
    check_installed()
    from tunewright.service.api_client import call_api

    return call_api(server, require_key(key), method, f"/v1/fine_tuning/jobs{path}")
