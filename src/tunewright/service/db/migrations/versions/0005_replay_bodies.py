"""Bodies of requests with an Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a hash of the body. What is remembered from before has none, and is answered whatever comes."""
    op.add_column("replays", sa.Column("body_hash", sa.String(length=64)))
