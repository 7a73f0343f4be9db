"""Copy everything from one database into an empty one of the other kind, whole or not at all."""

from __future__ import annotations

from sqlalchemy import Connection, Table, func, insert, select

from tunewright.errors import ServiceError
from tunewright.service.db.database import Database
from tunewright.service.db.tables import metadata

ROWS_AT_A_TIME = 1000


def copy_database(source: Database, target: Database) -> dict[str, int]:
    """Copy every row, and return how many there are by table. Both have the newest schema.

    One transaction on each side: the source is read as of one moment, and nothing stays in the target unless
    it has as many rows of each table in the end. Raises ServiceError (`service.database-not-empty`,
    `service.copy`).
    """
    with source.read() as old, target.write() as new:
        _check_empty(new, target)
        for table in metadata.sorted_tables:
            _copy_table(old, new, table)
        counts = {table.name: _count(old, table) for table in metadata.sorted_tables}
        found = {table.name: _count(new, table) for table in metadata.sorted_tables}
        if found != counts:
            differ = [name for name, count in counts.items() if found[name] != count]
            raise ServiceError(
                f"the copy has other numbers of rows: {', '.join(differ)}",
                where=_shown(target),
                hint="nothing was kept; stop every server that uses either database and try again",
                code="service.copy",
            )
    return counts


def _check_empty(connection: Connection, target: Database) -> None:
    full = [table.name for table in metadata.sorted_tables if _count(connection, table)]
    if full:
        raise ServiceError(
            "the database to copy to has rows already",
            where=_shown(target),
            got=", ".join(full),
            hint="make a new, empty database",
            code="service.database-not-empty",
        )


def _copy_table(old: Connection, new: Connection, table: Table) -> None:
    result = old.execution_options(yield_per=ROWS_AT_A_TIME).execute(select(table)).mappings()
    for rows in result.partitions(ROWS_AT_A_TIME):
        new.execute(insert(table), [dict(row) for row in rows])


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _shown(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=True)
