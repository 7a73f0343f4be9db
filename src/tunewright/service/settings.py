"""What one server is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.service.db.database import sqlite_url
from tunewright.service.inference.settings import InferenceSettings
from tunewright.service.logs import LogFormat

DEFAULT_PORT = 8200
DEFAULT_HOST = "127.0.0.1"
MEBIBYTE = 2**20
BUILTIN_MODEL = "builtin:tiny"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, job, key or project may take. From `requests_per_minute` on, 0 means no limit."""

    file_bytes: int = 512 * MEBIBYTE
    """Size of an uploaded file."""
    line_bytes: int = MEBIBYTE
    """The longest line of an uploaded training file of JSON lines."""
    json_bytes: int = MEBIBYTE
    """Size of the body of any other call."""
    seq_len: int = 131_072
    """The longest `seq_len` that a job may ask for."""
    examples: int = 10
    """Examples that a training file needs at least."""
    checkpoints_kept: int = 3
    """Checkpoint models of a job; older ones go."""
    requests_per_minute: int = 6_000
    """Requests of one key to one API process in any 60 seconds. A key may have a limit of its own."""
    key_streams: int = 50
    """Streams of events that one key has open at once, in one API process."""
    project_chats: int = 64
    """Chats and prompts of completions of a project that are answered at once, in one API process."""
    project_answers: int = 256
    """Answers to them, which are more where `n` is above 1."""
    project_jobs: int = 1_000
    """Jobs of a project that are not over."""
    project_running: int = 0
    """Jobs of a project that workers train at once; others wait."""
    project_files: int = 10_000
    """Files of a project."""
    project_bytes: int = 100 * 1024 * MEBIBYTE
    """Bytes of a project's files, models and checkpoints."""


UNLIMITED_BY_ZERO = (
    "requests_per_minute",
    "key_streams",
    "project_chats",
    "project_answers",
    "project_jobs",
    "project_running",
    "project_files",
    "project_bytes",
)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files that the server speaks TLS with."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """models: base models by the name that the API shows, and what the run file calls them. data_dir: files
    that jobs may name. proxies: addresses that may say for whom they ask. cors_origins: whose pages may call
    from a browser. log_format: of this process and of the workers that it starts."""

    home: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    database: str | None = None
    workers: int = 1
    lease_seconds: float = 60.0
    models: Mapping[str, str] = field(default_factory=lambda: {BUILTIN_MODEL: BUILTIN_MODEL})
    limits: Limits = Limits()
    data_dir: Path | None = None
    tls: Tls | None = None
    proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    log_format: LogFormat = "text"
    inference: InferenceSettings = field(default_factory=InferenceSettings)

    @property
    def database_url(self) -> str:
        """SQLite in the home folder unless another database was named."""
        return self.database or sqlite_url(self.home / "tunewright.db")
