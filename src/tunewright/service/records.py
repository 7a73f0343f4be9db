"""Frozen rows of the database, as the rest of the service sees them. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.service.jobs import Status

Json = Mapping[str, Any]
Wanted = Literal["run", "pause", "cancel"]
ArtifactKind = Literal["state", "checkpoint", "model"]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key without its secret. hint: its first letters. scopes: what it may do, of keys.SCOPES.
    previous_until: the secret before the last rotation is good until then. requests_per_minute: its own
    limit in place of the server's. last_used_at: to about a quarter of a minute."""

    id: str
    project: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    previous_until: float | None = None
    requests_per_minute: int | None = None
    last_used_at: float | None = None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An uploaded or result file. filename is a label only; the bytes lie in the blob store by sha256."""

    id: str
    project: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: float
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job. request: the create call after checks. hyperparameters: those in force; `auto` until the files
    are validated. checked: what validation counted. attempt: the fencing token of its lease, which is held
    while lease_worker is set and lease_expires has not passed. failures: attempts in a row that failed.
    place: the `engine/device` that its saved state goes on with. memory_over: bytes of memory that were too
    few for it."""

    id: str
    project: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    status: Status
    wanted: Wanted
    model: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    metadata: Mapping[str, str] | None
    request: Json
    hyperparameters: Json
    checked: Json | None
    step: int
    total_steps: int | None
    fine_tuned_model: str | None
    trained_tokens: int | None
    result_files: tuple[str, ...]
    error: Json | None
    attempt: int
    failures: int
    not_before: float
    lease_worker: str | None
    lease_expires: float | None
    last_event: int
    place: str | None
    memory_over: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker trains with. places: `engine/device` → bytes of its memory; the first is what a new job
    takes by itself. A worker that names none is given any job."""

    places: Mapping[str, int]

    def memory_at(self, place: str | None) -> int:
        """Bytes for a job that goes on at `place`, or anywhere; 0 where it cannot."""
        if place is None:
            return next(iter(self.places.values()), 0)
        return self.places.get(place, 0)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of a job. seq counts 1, 2, 3 … within it."""

    job_id: str
    seq: int
    id: str
    created_at: float
    level: str
    message: str
    type: str
    data: Json | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of an artifact: its path inside the folder, and the blob that holds its bytes."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """A folder that a run left: `state` to resume from, `checkpoint` and `model` to use. name: the model name
    of the latter two."""

    id: str
    job_id: str
    project: str
    kind: ArtifactKind
    name: str | None
    base: str
    step: int
    metrics: Json
    created_at: float
    files: tuple[StoredFile, ...]
