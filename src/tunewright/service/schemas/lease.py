"""What worker and server say to each other. Every call about a job carries its attempt, the fencing token."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tunewright.service.jobs import Phase
from tunewright.service.records import ArtifactKind

PROTOCOL = 1
ATTEMPT_HEADER = "x-attempt"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FilePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,7}$")]
"""A path inside a folder: no component starts with a dot, so that none can lead out of it."""


Place = Annotated[str, Field(pattern=r"^[a-z]{1,15}/[a-z]{1,15}$")]
"""Engine and device: a state that was saved with one goes on with the same."""
# PostgreSQL stores no NUL, and a report that is refused would be sent again for ever.
Message = Annotated[str, AfterValidator(lambda text: text.replace("\0", "\ufffd"))]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Capabilities(BaseModel):
    """What a worker says of its machine. places: `engine/device` → bytes of memory, the first is the one that
    a new job takes."""

    model_config = ConfigDict(extra="allow")

    engines: list[str] = []
    platform: str = ""
    cuda: bool = False
    cpus: int = 0
    memory_bytes: int = 0
    places: dict[Place, Annotated[int, Field(ge=1)]] = {}


class Claim(_Strict):
    """A worker asks for work. phase: for work of this kind only; None takes any."""

    protocol: Literal[1] = PROTOCOL
    worker: Annotated[str, Field(pattern=r"^worker_[A-Za-z0-9]{1,57}$")]
    name: Annotated[str, Field(max_length=128)]
    capabilities: Capabilities = Capabilities()
    phase: Phase | None = None


class StoredFileModel(_Strict):
    """One file of a folder, by the hash of its bytes."""

    path: FilePath
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class InputFile(_Strict):
    """A data file of a job. kind: its ending, which tells how to read it."""

    id: str
    kind: Literal[".jsonl", ".csv", ".parquet"]
    sha256: Sha256
    bytes: int


class Lease(_Strict):
    """A job to work on until the lease runs out or is renewed.

    settings: the run file, without any path. state: a folder to resume from, that of state_step; None when
    nothing was saved. start_from: an adapter to start from.
    """

    job: str
    attempt: int
    phase: Phase
    lease_seconds: float
    settings: dict[str, Any]
    training: InputFile
    validation: InputFile | None
    state: list[StoredFileModel] | None
    state_step: int
    start_from: list[StoredFileModel] | None


class Renewed(_Strict):
    """The lease runs on. wanted: what the worker should do with the job."""

    wanted: Literal["run", "pause", "cancel"]


class EventModel(_Strict):
    """An event to append. fact: what it tells, so that it is told once."""

    message: Message
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    fact: Annotated[str, Field(max_length=128)] | None = None
    created_at: float | None = None


class Report(_Strict):
    """What happened since the last report. metrics: the run's figures by step."""

    events: list[EventModel] = []
    metrics: dict[int, dict[str, float | None]] = {}
    step: int | None = None
    total_steps: int | None = None


class BlobList(_Strict):
    """Hashes of bytes."""

    sha256: Annotated[list[Sha256], Field(max_length=10_000)]


class NewArtifact(_Strict):
    """A folder whose files are stored. place: what a state goes on with."""

    kind: ArtifactKind
    step: int
    place: Place | None = None
    files: Annotated[list[StoredFileModel], Field(max_length=10_000)]


class Finish(_Strict):
    """How an attempt ended.

    outcome: `validated`, `succeeded`, `stopped` (resumable, on request) or `failed`. checked: what validation
    counted. code and message: the fault as the run named it. param: the field of the job that it is about.
    """

    outcome: Literal["validated", "succeeded", "stopped", "failed"]
    exit_code: int | None = None
    code: str | None = None
    message: Message | None = None
    param: str | None = None
    checked: dict[str, Any] | None = None
    step: int = 0
