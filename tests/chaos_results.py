"""What is left of the jobs of a service once nothing moves any more, as records of service_history.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from chaos_clients import BATCH, EPOCHS, JOBS, ROWS, Caller
from tunewright.service.context import Service
from tunewright.service.db.tables import artifact_files, artifacts


def read_ends(caller: Caller, service: Service) -> Iterator[dict[str, Any]]:
    """One `end` for each job that the API lists."""
    for job in _pages(caller, JOBS, 50):
        events = _pages(caller, f"{JOBS}/{job['id']}/events", 100)[::-1]
        told = [
            {"id": one["id"], "message": one["message"], "step": (one["data"] or {}).get("step")}
            for one in events
        ]
        results = _results(caller, service, job) if job["status"] == "succeeded" else None
        error = (job["error"] or {}).get("code")
        yield {"job": job["id"], "status": job["status"], "events": told, "results": results, "error": error}


def _pages(caller: Caller, path: str, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: dict[str, Any] = {}
    while True:
        page = caller.call("GET", path, params={"limit": limit, **after}).json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = {"after": found[-1]["id"]}


def _results(caller: Caller, service: Service, job: dict[str, Any]) -> dict[str, Any]:
    content = caller.call("GET", f"/v1/files/{job['result_files'][0]}/content").content
    checkpoints = _pages(caller, f"{JOBS}/{job['id']}/checkpoints", 50)
    return {
        "make": job["fine_tuned_model"].split(":")[-2],
        "steps": EPOCHS * -(-ROWS // BATCH),
        "csv": hashlib.sha256(content).hexdigest(),
        "checkpoints": [one["step_number"] for one in checkpoints],
        "model": _weights(service, job["id"]),
    }


def _weights(service: Service, job_id: str) -> list[str]:
    """Hashes of the arrays of a job's model. The API shows no bytes of models, so the rows are asked."""
    query = (
        select(artifact_files.c.sha256)
        .join(artifacts, artifacts.c.id == artifact_files.c.artifact_id)
        .where(artifacts.c.job_id == job_id, artifacts.c.kind == "model", artifacts.c.deleted_at.is_(None))
        .where(artifact_files.c.path.like("%.safetensors"))
        .order_by(artifact_files.c.path)
    )
    with service.database.read() as connection:
        return list(connection.execute(query).scalars())
