"""One way to open the database and one way to begin: `read` and `write` transactions on either back end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock, local
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import SQLAlchemyError as DatabaseFault
from sqlalchemy.exc import TimeoutError as PoolTimeout

__all__ = [
    "DATABASE_AWAY",
    "Connection",
    "Database",
    "DatabaseFault",
    "clock",
    "hold_name",
    "sqlite_url",
    "steady_clock",
]

BUSY_SECONDS = 30
DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)
"""What is raised while the database cannot be reached, or is too busy."""

_BEGAN = time.time() - time.monotonic()

Found = TypeVar("Found")


class Database:
    """Connections to one database. url: `sqlite:///…` or `postgresql+psycopg://…`.

    SQLite runs in WAL mode with one writer at a time: a write transaction takes the lock when it begins, so
    that what it reads cannot change before it writes. On PostgreSQL rows are locked where they are read.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._writer: AbstractContextManager[object]
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
            _prepare_sqlite(self.engine)
            # SQLite's own waiting is polling, under which a thread can starve. Other processes still poll.
            self._writer = Lock()
        else:
            self.engine = create_engine(parsed, pool_pre_ping=True, pool_size=5, max_overflow=10)
            self._writer = nullcontext()
        self._here = local()
        self._kept: list[Connection] = []

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction that changes nothing."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction that is committed when the body ends, and rolled back when it raises."""
        # In this order: whoever waits for his turn holds no connection that a reader may need.
        with (
            self._writer,
            self.engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def ask(self, question: Callable[[Connection], Found]) -> Found:
        """What `question` finds in a transaction that changes nothing."""
        with self.read() as connection:
            return question(connection)

    def ask_here(self, question: Callable[[Connection], Found]) -> Found:
        """The same on a connection that this thread keeps for itself, so that it never waits for one. For
        threads that live as long as the server."""
        connection: Connection | None = getattr(self._here, "connection", None)
        if connection is None or connection.closed:
            connection = self._here.connection = self.engine.connect()
            self._kept.append(connection)
        try:
            with connection.begin():
                return question(connection)
        except DatabaseFault:
            # Whatever is wrong with it, the next question begins anew.
            connection.invalidate()
            connection.close()
            self._kept.remove(connection)
            self._here.connection = None
            raise

    def close(self) -> None:
        """Give all connections back."""
        while self._kept:
            self._kept.pop().close()
        self.engine.dispose()


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def clock(connection: Connection) -> float:
    """Now, in Unix seconds: the database's clock where several servers share it, else this machine's."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(text("select extract(epoch from clock_timestamp())")).scalar_one())


def steady_clock(connection: Connection) -> float:
    """As clock, for times that end within minutes, such as leases: one that nobody sets.

    On SQLite it goes on from the time at which this process began, and stands still while the machine sleeps,
    as the worker beside it does.
    """
    return _BEGAN + time.monotonic() if connection.dialect.name == "sqlite" else clock(connection)


def hold_name(connection: Connection, name_hash: str) -> None:
    """Let nobody else past this line with the same name until the transaction ends. SQLite has one writer
    anyhow."""
    if connection.dialect.name != "sqlite":
        number = int(name_hash[:15], 16)
        connection.execute(text("select pg_advisory_xact_lock(:number)"), {"number": number})


def _prepare_sqlite(engine: Engine) -> None:
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself; on_begin below does.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # By the driver: SQLAlchemy takes as long for this line as for a whole question. It locks nothing
            # and so never fails.
            driver: Any = connection.connection.dbapi_connection
            driver.execute("BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
