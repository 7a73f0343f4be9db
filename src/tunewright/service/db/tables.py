"""The schema, once, for SQLite and PostgreSQL. Times are Unix seconds; migrations/ builds the same tables.

No column holds a secret: keys are stored as a keyed hash. No column holds a path of the machine.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = String(64)
_SHA256 = String(64)
_JSON = JSON(none_as_null=True)

keys = Table(
    "keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("project", _ID, nullable=False),
    Column("name", String(128), nullable=False),
    Column("hint", String(16), nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("scopes", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    # A rotated key answers to its previous secret too, until this time.
    Column("previous_hash", String(64), index=True),
    Column("previous_until", Double),
    Column("requests_per_minute", Integer),
    Column("last_used_at", Double),
)

peppers = Table(
    "peppers",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", _SHA256, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    # When somebody last stored these bytes; an upload that is not referred to yet is safe for a while.
    Column("touched_at", Double, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("project", _ID, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", _SHA256, nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("deleted_at", Double),
    Index(None, "project", "created_at", "id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("project", _ID, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("status", String(32), nullable=False),
    Column("wanted", String(16), nullable=False, default="run"),
    Column("priority", Integer, nullable=False, default=0),
    Column("model", Text, nullable=False),
    Column("training_file", _ID, nullable=False),
    Column("validation_file", _ID),
    Column("suffix", String(64)),
    Column("seed", BigInteger, nullable=False),
    Column("metadata", _JSON),
    Column("request", _JSON, nullable=False),
    Column("hyperparameters", _JSON, nullable=False),
    Column("checked", _JSON),
    Column("step", Integer, nullable=False, default=0),
    Column("total_steps", Integer),
    Column("fine_tuned_model", Text),
    Column("trained_tokens", BigInteger),
    Column("result_files", _JSON, nullable=False, default=list),
    Column("error", _JSON),
    Column("attempt", Integer, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    Column("not_before", Double, nullable=False, default=0.0),
    Column("lease_worker", _ID),
    Column("lease_expires", Double),
    Column("last_event", Integer, nullable=False, default=0),
    Column("place", String(32)),
    Column("memory_over", BigInteger, nullable=False, default=0, server_default="0"),
    Index(None, "project", "created_at", "id"),
    Index(None, "status", "not_before"),
    # Few jobs are held at a time; the queue asks for them with every claim.
    Index(None, "lease_worker", "project"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("worker", _ID, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("exit_code", Integer),
    Column("outcome", String(32)),
)

events = Table(
    "events",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("id", _ID, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("type", String(16), nullable=False),
    Column("data", _JSON),
    # What the event tells, so that a step that is trained again is not told again; NULL is told always.
    Column("fact", String(128)),
    UniqueConstraint("job_id", "fact"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("figures", _JSON, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("job_id", _ID, ForeignKey("jobs.id"), nullable=False),
    Column("project", _ID, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(256), unique=True),
    Column("base", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("metrics", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("deleted_at", Double),
    UniqueConstraint("job_id", "kind", "step"),
)

artifact_files = Table(
    "artifact_files",
    metadata,
    Column("artifact_id", _ID, ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(256), primary_key=True),
    Column("sha256", _SHA256, nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("capabilities", _JSON, nullable=False),
    Column("seen_at", Double, nullable=False),
)

replays = Table(
    "replays",
    metadata,
    # Hash of key, path and body, or of key, path and Idempotency-Key.
    Column("request_hash", String(64), primary_key=True),
    Column("object_id", _ID, nullable=False),
    Column("created_at", Double, nullable=False, index=True),
    # What the request of an Idempotency-Key asked for; NULL for one that is named by its body.
    Column("body_hash", String(64)),
)
