"""What one server is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.service.db.database import sqlite_url

DEFAULT_PORT = 8200
DEFAULT_HOST = "127.0.0.1"
MEBIBYTE = 2**20
BUILTIN_MODEL = "builtin:tiny"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, job, key or project may take. The last five may be 0 for no limit.

    requests_per_minute: of one key in one API process. project_jobs: that are not over. project_running: held
    by workers; others wait. project_bytes: files, models and checkpoints.
    """

    file_bytes: int = 512 * MEBIBYTE
    json_bytes: int = MEBIBYTE
    seq_len: int = 131_072
    examples: int = 10
    checkpoints_kept: int = 3
    requests_per_minute: int = 6_000
    project_jobs: int = 1_000
    project_running: int = 0
    project_files: int = 10_000
    project_bytes: int = 100 * 1024 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """models: base models by the name that the API shows, and what the run file calls them."""

    home: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    database: str | None = None
    workers: int = 1
    lease_seconds: float = 60.0
    models: Mapping[str, str] = field(default_factory=lambda: {BUILTIN_MODEL: BUILTIN_MODEL})
    limits: Limits = Limits()

    @property
    def database_url(self) -> str:
        """SQLite in the home folder unless another database was named."""
        return self.database or sqlite_url(self.home / "tunewright.db")
