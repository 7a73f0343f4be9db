"""The schema that migrations build, and transactions of both back ends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.pool import QueuePool

from tunewright.service.db.blobs import add_blob, known_blobs
from tunewright.service.db.database import DATABASE_AWAY, Database
from tunewright.service.db.migrate import upgrade
from tunewright.service.db.tables import metadata


def test_migrations_build_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_two_may_store_the_same_bytes_at_once(database: Database) -> None:
    inserted = threading.Event()

    def second() -> None:
        assert inserted.wait(30)
        with database.write() as connection:
            add_blob(connection, "a" * 64, 5)

    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            add_blob(connection, "a" * 64, 5)
            other = pool.submit(second)
            inserted.set()
            # Time to come to the row; it waits there for this transaction.
            time.sleep(0.2)
        other.result(timeout=30)
    with database.write() as connection:
        assert known_blobs(connection, {"a" * 64}) == {"a" * 64}


def test_an_upgrade_may_be_repeated_and_come_from_several_at_once(database: Database) -> None:
    start = threading.Barrier(4)

    def again(_number: int) -> None:
        other = Database(database.engine.url.render_as_string(hide_password=False))
        start.wait()
        upgrade(other)
        other.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(again, range(4)))


def test_writers_that_wait_for_their_turn_leave_readers_their_connections(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    upgrade(database)
    begun = threading.Barrier(21)

    def write() -> None:
        begun.wait()
        with database.write():
            pass

    with ThreadPoolExecutor(20) as pool:
        with database.write():
            writers = [pool.submit(write) for _ in range(20)]
            begun.wait()
            time.sleep(0.3)
            started = time.monotonic()
            with database.read() as connection:
                connection.execute(text("select 1"))
            assert time.monotonic() - started < 5
        for writer in writers:
            writer.result()
    database.close()


def test_a_database_without_a_free_connection_is_away(tmp_path: Path) -> None:
    """An answer to try again after, not a fault of the server."""
    database = Database(f"sqlite:///{tmp_path}/test.db")
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    pool._timeout = 0.1
    with ExitStack() as readers:
        for _ in range(15):
            readers.enter_context(database.read())
        with pytest.raises(DATABASE_AWAY), database.read():
            pass
    database.close()
