"""From rows of a query to the frozen records of the service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from typing import Any

from sqlalchemy import RowMapping

from tunewright.service.jobs import Status
from tunewright.service.records import (
    ArtifactRecord,
    EventRecord,
    FileRecord,
    JobRecord,
    KeyRecord,
    StoredFile,
)


def to_key(row: RowMapping) -> KeyRecord:
    """A row of `keys`."""
    values = _values(KeyRecord, row)
    values["scopes"] = tuple(row["scopes"])
    return KeyRecord(**values)


def to_file(row: RowMapping) -> FileRecord:
    """A row of `files`."""
    return FileRecord(**_values(FileRecord, row))


def to_job(row: RowMapping) -> JobRecord:
    """A row of `jobs`."""
    values = _values(JobRecord, row)
    values |= {"status": Status(row["status"]), "result_files": tuple(row["result_files"])}
    return JobRecord(**values)


def to_event(row: RowMapping) -> EventRecord:
    """A row of `events`."""
    return EventRecord(**_values(EventRecord, row))


def to_artifact(row: RowMapping, files: Iterable[RowMapping]) -> ArtifactRecord:
    """A row of `artifacts` with its rows of `artifact_files`."""
    stored = tuple(StoredFile(**_values(StoredFile, file)) for file in files)
    wanted = (field.name for field in fields(ArtifactRecord) if field.name != "files")
    return ArtifactRecord(**{name: row[name] for name in wanted}, files=stored)


def _values(record: Any, row: RowMapping) -> dict[str, Any]:
    return {name: row[name] for name in _names(record)}


@cache
def _names(record: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))
