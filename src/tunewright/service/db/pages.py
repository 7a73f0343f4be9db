"""Pages of a list, newest first or oldest first, that stay whole while rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Connection, FromClause, RowMapping, and_, or_, select

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class Page:
    """What a caller asks for. after: id of the last row it has."""

    limit: int
    after: str | None = None
    order: Order = "desc"


def read_page(
    connection: Connection, table: FromClause, where: Sequence[ColumnElement[bool]], page: Page
) -> tuple[list[RowMapping], bool] | None:
    """Rows by (created_at, id) from behind `after`, and whether there are more.

    None when `after` names no row that `where` lets through.
    """
    columns = table.c
    conditions = list(where)
    if page.after is not None:
        found = connection.execute(
            select(columns.created_at, columns.id).where(*where, columns.id == page.after)
        ).first()
        if found is None:
            return None
        conditions.append(_behind(columns.created_at, columns.id, found[0], found[1], page.order))
    keys = (columns.created_at, columns.id)
    order = [key.desc() if page.order == "desc" else key.asc() for key in keys]
    rows = connection.execute(select(table).where(*conditions).order_by(*order).limit(page.limit + 1))
    found_rows = list(rows.mappings())
    return found_rows[: page.limit], len(found_rows) > page.limit


def _behind(
    time: ColumnElement[float], id_: ColumnElement[str], last_time: float, last_id: str, order: Order
) -> ColumnElement[bool]:
    if order == "desc":
        return or_(time < last_time, and_(time == last_time, id_ < last_id))
    return or_(time > last_time, and_(time == last_time, id_ > last_id))
