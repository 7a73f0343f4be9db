"""A database that cannot be opened is named in one sentence, without its password."""

from __future__ import annotations

import pytest

from tunewright.errors import ServiceError
from tunewright.service.db.opening import open_database


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("not a database", "not the address of a database"),
        ("mysql://someone:hidden@localhost/x", "mysql is not supported"),
        ("postgresql+psycopg://someone:hidden@127.0.0.1:9/x", "does not answer"),
        ("sqlite:////nowhere/at/all.db", "does not answer"),
    ],
)
def test_a_database_that_cannot_be_opened_is_named(url: str, said: str) -> None:
    with pytest.raises(ServiceError, match=said) as caught:
        open_database(url)
    assert caught.value.code == "service.database"
    assert caught.value.hint
    assert "hidden" not in str(caught.value)


def test_the_short_names_of_postgresql_are_understood(postgres) -> None:
    url = postgres().replace("postgresql+psycopg://", "postgresql://")
    assert url.startswith("postgresql://")
    with_driver = open_database(url)
    assert with_driver.engine.driver == "psycopg"
    with_driver.close()
