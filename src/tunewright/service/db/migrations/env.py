"""Alembic's entry: migrate on the connection that db/migrate.py hands over."""

from __future__ import annotations

from alembic import context

from tunewright.service.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place.
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
