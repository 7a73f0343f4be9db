"""Where a job can be done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the place of a job's saved state, and the memory that was too little for it."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("place", sa.String(length=32)))
        jobs.add_column(sa.Column("memory_over", sa.BigInteger(), nullable=False, server_default="0"))
