"""The clock of the machine is set while jobs are held, on SQLite, which has no clock of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tunewright.service.db.database import Database
from tunewright.service.db.jobs import add_job
from tunewright.service.db.migrate import upgrade
from tunewright.service.db.queue import claim_job, hold_job, lock_expired, renew_lease, shorten_leases
from tunewright.service.records import JobRecord

HOUR, DAY = 3600.0, 24 * 3600.0
JUMPS = [HOUR, -HOUR, DAY, -DAY]
LEASE_SECONDS = 60.0


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = Database(f"sqlite:///{tmp_path}/test.db")
    upgrade(found)
    with found.write() as connection:
        row = {"id": "ftjob-1", "project": "p", "created_at": 1.0, "status": "queued", "model": "m"}
        row |= {"training_file": "f", "seed": 0, "request": {}, "hyperparameters": {}}
        add_job(connection, row)
    return found


def claimed(database: Database, seconds: float = LEASE_SECONDS) -> JobRecord:
    with database.write() as connection:
        job = claim_job(connection, "w", seconds)
    assert job is not None
    return job


def set_clock(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + by)


@pytest.mark.parametrize("jump", JUMPS)
def test_no_lease_ends_early(jump: float, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job = claimed(database)
    set_clock(monkeypatch, jump)
    with database.write() as connection:
        assert lock_expired(connection) == []
        assert hold_job(connection, job.id, job.attempt) is not None
        renew_lease(connection, job, LEASE_SECONDS)
        assert lock_expired(connection) == []
    database.close()


@pytest.mark.parametrize("jump", JUMPS)
def test_no_lease_ends_late(jump: float, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job = claimed(database, seconds=0.2)
    set_clock(monkeypatch, jump)
    time.sleep(0.3)
    with database.write() as connection:
        assert [expired.id for expired in lock_expired(connection)] == [job.id]
    database.close()


def test_a_lease_of_a_clock_that_ran_ahead_ends_within_one_of_the_next_start(database: Database) -> None:
    job = claimed(database, seconds=DAY)
    with database.write() as connection:
        shorten_leases(connection, 0.2)
        assert hold_job(connection, job.id, job.attempt) is not None
    time.sleep(0.3)
    with database.write() as connection:
        assert [expired.id for expired in lock_expired(connection)] == [job.id]
    database.close()
