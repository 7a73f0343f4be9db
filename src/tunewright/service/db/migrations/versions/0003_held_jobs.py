"""An index of the jobs that workers hold."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what is in tables.py since."""
    op.create_index("ix_jobs_lease_worker_project", "jobs", ["lease_worker", "project"])
