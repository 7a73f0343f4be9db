"""Keys that are rotated, limited and seen in use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Add what a key was before its rotation, how much it may ask, and when it was last used."""
    with op.batch_alter_table("keys") as keys:
        keys.add_column(sa.Column("previous_hash", sa.String(length=64)))
        keys.add_column(sa.Column("previous_until", _TIME))
        keys.add_column(sa.Column("requests_per_minute", sa.Integer()))
        keys.add_column(sa.Column("last_used_at", _TIME))
        keys.create_index(op.f("ix_keys_previous_hash"), ["previous_hash"])
