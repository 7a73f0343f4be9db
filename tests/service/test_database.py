"""The schema that migrations build, and transactions of both back ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tunewright.service.db.database import Database
from tunewright.service.db.migrate import upgrade
from tunewright.service.db.tables import metadata


def test_migrations_build_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_an_upgrade_may_be_repeated_and_come_from_several_at_once(database: Database) -> None:
    start = threading.Barrier(4)

    def again(_number: int) -> None:
        other = Database(database.engine.url.render_as_string(hide_password=False))
        start.wait()
        upgrade(other)
        other.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(again, range(4)))
