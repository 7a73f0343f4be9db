"""The lease protocol spoken by hand, so that a test decides what a worker does and when."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service_server import RunningServer
from tunewright.service.ids import WORKER, new_id
from tunewright.service.records import ArtifactKind
from tunewright.service.schemas.lease import (
    Claim,
    EventModel,
    Finish,
    Lease,
    NewArtifact,
    Report,
    StoredFileModel,
)
from tunewright.service.worker.client import ServerClient


class HandWorker:
    """A worker without hands of its own. folder: where it keeps files that it sends. claim: what it says of
    itself."""

    def __init__(self, client: ServerClient, folder: Path, claim: Claim | None = None) -> None:
        self.client = client
        self._folder = folder
        self._claim = claim or Claim(worker=new_id(WORKER), name="by hand")

    def claim(self) -> Lease | None:
        return self.client.claim(self._claim)

    def claim_job(self, job_id: str) -> Lease:
        """The lease of this job. Other tests' jobs that come first are failed, so that they do not stay in
        the way."""
        while (lease := self.claim()) is not None:
            if lease.job == job_id:
                return lease
            self.client.finish(lease, Finish(outcome="failed", code="in.the-way", message="", exit_code=2))
        raise AssertionError(f"{job_id} is not to be had")

    def validate(self, job_id: str, rows: int = 40, **checked: Any) -> None:
        """Say that the files of the job are good."""
        lease = self.claim_job(job_id)
        assert lease.phase == "validate"
        checked = {"train_rows": rows, **checked}
        self.client.finish(lease, Finish(outcome="validated", exit_code=0, checked=checked))

    def begin(self, job_id: str, rows: int = 40) -> Lease:
        """Take the job as far as `running`."""
        self.validate(job_id, rows)
        lease = self.claim_job(job_id)
        assert lease.phase == "train"
        return lease

    def report(self, lease: Lease, step: int, total: int, **figures: float) -> None:
        """Report one step."""
        event = EventModel(
            message=f"Step {step}/{total}", type="metrics", data={"step": step}, fact=f"step:{step}"
        )
        self.client.report(
            lease, Report(events=[event], metrics={step: figures}, step=step, total_steps=total)
        )

    def save(
        self,
        lease: Lease,
        kind: ArtifactKind,
        step: int,
        files: Mapping[str, bytes] | None = None,
        place: str | None = None,
    ) -> None:
        """Hand over a folder."""
        stored: list[StoredFileModel] = []
        for name, data in (files or {"weights.bin": f"{kind} {step}".encode()}).items():
            path = self._folder / name
            path.write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            self.client.send_blob(sha256, path)
            stored.append(StoredFileModel(path=name, sha256=sha256, bytes=len(data)))
        self.client.add_artifact(lease, NewArtifact(kind=kind, step=step, files=stored, place=place))

    def succeed(self, lease: Lease, step: int = 4) -> None:
        """Hand over the model and end the job."""
        self.save(lease, "model", step)
        self.client.finish(lease, Finish(outcome="succeeded", exit_code=0, step=step))


@contextmanager
def worker_by_hand(server: RunningServer, folder: Path, claim: Claim | None = None) -> Generator[HandWorker]:
    """A worker of this server."""
    client = ServerClient(server.url, server.key("worker"))
    try:
        yield HandWorker(client, folder, claim)
    finally:
        client.close()
