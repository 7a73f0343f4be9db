"""The fingerprint of the pepper that the keys are hashed with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table of its one row, which the next start fills in."""
    op.create_table(
        "peppers",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_peppers")),
    )
