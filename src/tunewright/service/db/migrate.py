"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tunewright.service.db.database import Database, hold_name

_UPGRADE = "75f1e8d2c4a9b003"


def upgrade(database: Database) -> None:
    """Run the migrations that are missing. Servers that start at the same time wait for each other."""
    config = _config()
    with database.write() as connection:
        hold_name(connection, _UPGRADE)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def missing_migrations(database: Database) -> int:
    """How many migrations the next upgrade will run."""
    with database.read() as connection:
        here = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(_config())
    return sum(1 for _ in script.iterate_revisions("head", here or "base"))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config
