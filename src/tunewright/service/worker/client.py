"""The worker's side of the lease protocol: HTTP only, so that a worker needs no database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from tunewright.errors import ServiceError
from tunewright.service.schemas.lease import (
    ATTEMPT_HEADER,
    BlobList,
    Claim,
    Finish,
    Lease,
    NewArtifact,
    Renewed,
    Report,
    StoredFileModel,
)
from tunewright.service.store import CHUNK_BYTES
from tunewright.service.worker.child import LEASE_SHARE

LONGEST_SECONDS = 60.0
POLL_SECONDS = 1.0

Answer = TypeVar("Answer", bound=BaseModel)


class LeaseLost(Exception):
    """The job is not this worker's any more: stop, and write nothing."""


class ServerAway(Exception):
    """The server cannot be reached, or is not well. It may come back."""


class ServerClient:
    """Calls of one worker. Each raises ServerAway, LeaseLost, and ServiceError (`service.key-refused`,
    `service.refused`, `service.unreachable`)."""

    def __init__(self, server: str, key: str) -> None:
        self._server = server
        self._http = httpx2.Client(
            base_url=server.rstrip("/"), headers={"authorization": f"Bearer {key}"}, timeout=LONGEST_SECONDS
        )
        self.poll_seconds = POLL_SECONDS
        """How long to wait before the next claim when nothing waits, as the server said."""
        self._patience = LONGEST_SECONDS

    def claim(self, claim: Claim) -> Lease | None:
        """A job to work on; None when nothing waits."""
        response = self._call("POST", "/worker/claim", body=claim)
        if response.status_code != 204:
            lease = self._read(Lease, response)
            # Whoever waits longer than a lease waits for a refusal.
            self._patience = min(lease.lease_seconds, LONGEST_SECONDS)
            return lease
        self.poll_seconds = float(response.headers.get("retry-after", POLL_SECONDS))
        return None

    def renew(self, lease: Lease) -> Renewed:
        """Let the lease run on; says what the job's owner wants."""
        # A line that has gone silent may not cost the lease: there is time to ask again. And an answer that
        # came later would let the trainer run on beyond the lease, which counts from the question.
        seconds = lease.lease_seconds * (1 - LEASE_SHARE)
        return self._read(Renewed, self._about(lease, "renew", seconds=seconds))

    def report(self, lease: Lease, report: Report) -> None:
        """Send events and figures."""
        self._about(lease, "report", report)

    def add_artifact(self, lease: Lease, artifact: NewArtifact) -> None:
        """Record a folder whose bytes are stored."""
        self._about(lease, "artifacts", artifact)

    def finish(self, lease: Lease, finish: Finish) -> None:
        """Close the attempt."""
        self._about(lease, "finish", finish)

    def missing_blobs(self, hashes: list[str]) -> set[str]:
        """Those of these hashes whose bytes the server does not have."""
        response = self._call("POST", "/worker/blobs/missing", body=BlobList(sha256=hashes))
        return set(self._read(BlobList, response).sha256)

    def send_blob(self, sha256: str, path: Path) -> None:
        """Send the bytes of a file. Raises OSError."""
        self._call("PUT", f"/worker/blobs/{sha256}", content=_chunks(path))

    def fetch_blob(self, lease: Lease, file: StoredFileModel, path: Path) -> None:
        """Write the bytes of a file that the lease names. Raises OSError, and ServiceError
        (`service.transfer`) when the server does not have them."""
        headers = {ATTEMPT_HEADER: str(lease.attempt)}
        place = f"/worker/jobs/{lease.job}/blobs/{file.sha256}"
        try:
            with self._http.stream("GET", place, headers=headers, timeout=self._patience) as response:
                if response.status_code != 200:
                    response.read()
                    if response.status_code == 404:
                        raise _no_bytes(file, response)
                    self._check(response)
                with path.open("wb") as out:
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        out.write(chunk)
        except httpx2.TransportError as error:
            raise ServerAway(f"{self._server}: {error}") from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _about(
        self, lease: Lease, name: str, body: BaseModel | None = None, seconds: float | None = None
    ) -> httpx2.Response:
        place = f"/worker/jobs/{lease.job}/{name}"
        return self._call("POST", place, body=body, attempt=lease.attempt, seconds=seconds)

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        content: Iterator[bytes] | None = None,
        attempt: int | None = None,
        seconds: float | None = None,
    ) -> httpx2.Response:
        headers = {} if attempt is None else {ATTEMPT_HEADER: str(attempt)}
        data: Any = content
        if body is not None:
            headers["content-type"] = "application/json"
            data = body.model_dump_json().encode()
        try:
            response = self._http.request(
                method, path, content=data, headers=headers, timeout=seconds or self._patience
            )
        except httpx2.TransportError as error:
            raise ServerAway(f"{self._server}: {error}") from error
        self._check(response)
        return response

    def _read(self, kind: type[Answer], response: httpx2.Response) -> Answer:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise self._not_ours(response.text[:300]) from error

    def _not_ours(self, got: str) -> ServiceError:
        return ServiceError(
            "no Tunewright server of this version answers here",
            where=self._server,
            got=got,
            hint="name the server's own address in --server, with https:// where it is served so",
            code="service.unreachable",
        )

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if 300 <= status < 400:
            raise self._not_ours(f"status {status}, which leads to {response.headers.get('location')}")
        if status == 409:
            raise LeaseLost(response.text)
        # 408: the body came too slowly, which is a matter of the line.
        if status >= 500 or status in (408, 429):
            raise ServerAway(f"{self._server}: status {status}")
        if status in (401, 403):
            raise ServiceError(
                "the server does not accept this key",
                where=self._server,
                hint="make one with: tunewright key create NAME --scope worker",
                code="service.key-refused",
            )
        if status >= 400:
            raise ServiceError(
                "the server refused a call of this worker",
                where=self._server,
                got=f"status {status}: {response.text[:300]}",
                hint="server and worker must be of the same version",
                code="service.refused",
            )


def _no_bytes(file: StoredFileModel, response: httpx2.Response) -> ServiceError:
    return ServiceError(
        "the server does not have a file of this job",
        where=file.path,
        got=response.text[:300],
        hint="its log says which bytes are missing; restore them from a backup, or upload the file again",
        code="service.transfer",
    )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
