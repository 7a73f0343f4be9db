"""Claim, lease and fencing on both databases, by many hands at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import select, update

from tunewright.service.db.database import Database
from tunewright.service.db.jobs import add_job, find_job
from tunewright.service.db.queue import (
    claim_job,
    end_attempt,
    hold_job,
    lock_expired,
    note_worker,
    renew_lease,
)
from tunewright.service.db.tables import workers
from tunewright.service.records import JobRecord, Machine

LONG = 600.0
GIB = 2**30
LAPTOP = {"torch/cpu": 8 * GIB}
GPU_BOX = {"torch/cuda": 80 * GIB, "torch/cpu": 64 * GIB}
MAC = {"mlx/metal": 32 * GIB, "torch/mps": 32 * GIB, "torch/cpu": 32 * GIB, "mlx/cpu": 32 * GIB}


def put(database: Database, count: int = 1, *, project: str = "p", **values: object) -> None:
    with database.write() as connection:
        for number in range(count):
            row = {
                "id": f"ftjob-{project}-{number:04}",
                "project": project,
                "created_at": 1.0 + number,
                "status": "queued",
                "model": "m",
                "training_file": "f",
                "seed": 0,
                "request": {},
                "hyperparameters": {},
            }
            add_job(connection, {**row, **values})


def claim(database: Database, worker: str = "w", seconds: float = LONG) -> JobRecord | None:
    with database.write() as connection:
        return claim_job(connection, worker, seconds)


def claimed(database: Database, worker: str = "w", seconds: float = LONG) -> JobRecord:
    job = claim(database, worker, seconds)
    assert job is not None
    return job


def finish(database: Database, job: JobRecord) -> bool:
    """End the attempt; False when it is not ours any more."""
    with database.write() as connection:
        held = hold_job(connection, job.id, job.attempt)
        if held is not None:
            end_attempt(connection, held, "succeeded", 0, status="succeeded")
    return held is not None


@pytest.mark.timeout(240)
def test_a_thousand_jobs_and_eight_workers(database: Database) -> None:
    put(database, 1000)
    start = threading.Barrier(8)

    def work(name: str) -> list[str]:
        start.wait()
        found: list[str] = []
        while (job := claim(database, name)) is not None:
            found.append(job.id)
            assert finish(database, job)
        return found

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(work, [f"worker-{number}" for number in range(8)]))
    times = Counter(job for jobs in told for job in jobs)
    assert len(times) == 1000
    assert set(times.values()) == {1}


def test_an_expired_lease_goes_to_another_worker_and_the_first_is_refused(database: Database) -> None:
    put(database)
    first = claimed(database, "a", seconds=0.05)
    assert claim(database, "b") is None
    time.sleep(0.1)
    with database.write() as connection:
        assert hold_job(connection, first.id, first.attempt) is None
        [expired] = lock_expired(connection)
        end_attempt(connection, expired, "lost", None)
    second = claimed(database, "b")
    assert (second.id, second.attempt) == (first.id, first.attempt + 1)
    assert not finish(database, first)
    assert finish(database, second)
    assert claim(database) is None


def test_a_renewed_lease_does_not_expire(database: Database) -> None:
    put(database)
    job = claimed(database, seconds=0.05)
    with database.write() as connection:
        renew_lease(connection, job, LONG)
    time.sleep(0.1)
    with database.write() as connection:
        assert lock_expired(connection) == []
        assert hold_job(connection, job.id, job.attempt) is not None
        assert hold_job(connection, job.id, job.attempt + 1) is None


def test_a_worker_that_trains_is_there(database: Database) -> None:
    with database.write() as connection:
        note_worker(connection, "w", "busy", {})
        connection.execute(update(workers).values(seen_at=1.0))
    put(database)
    job = claimed(database)
    with database.write() as connection:
        renew_lease(connection, job, LONG)
        [seen] = connection.execute(select(workers.c.seen_at)).scalars()
    assert abs(seen - time.time()) < LONG


def test_a_job_that_claims_to_run_for_nobody_is_found(database: Database) -> None:
    put(database, status="running")
    with database.write() as connection:
        assert [job.id for job in lock_expired(connection)] == ["ftjob-p-0000"]


@pytest.mark.parametrize(
    ("values", "is_claimable"),
    [
        ({"status": "validating_files"}, True),
        ({"status": "queued", "not_before": 1.0}, True),
        ({"status": "queued", "not_before": 4e9}, False),
        ({"status": "running"}, False),
        ({"status": "paused"}, False),
        ({"status": "cancelled"}, False),
    ],
)
def test_what_waits(values: dict[str, object], is_claimable: bool, database: Database) -> None:
    put(database, **values)
    assert (claim(database) is not None) is is_claimable


def test_order_is_priority_then_fair_share_then_age(database: Database) -> None:
    put(database, 3, project="many")
    put(database, 1, project="few", created_at=100.0)
    put(database, 1, project="urgent", created_at=200.0, priority=5)
    order = [claimed(database).id for _ in range(5)]
    assert order == [
        "ftjob-urgent-0000",
        "ftjob-many-0000",
        "ftjob-few-0000",
        "ftjob-many-0001",
        "ftjob-many-0002",
    ]


def test_a_claim_that_is_rolled_back_leaves_the_job(database: Database) -> None:
    put(database)

    def claim_and_break() -> None:
        with database.write() as connection:
            claim_job(connection, "w", LONG)
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        claim_and_break()
    assert claimed(database).attempt == 1


def test_a_limit_of_a_project_holds_for_two_claims_at_once(database: Database) -> None:
    put(database, 2)

    def claim_one() -> JobRecord | None:
        with database.write() as connection:
            return claim_job(connection, "b", LONG, most_per_project=1)

    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            assert claim_job(connection, "a", LONG, most_per_project=1) is not None
            second = pool.submit(claim_one)
            # One that does not wait for the first has its answer by then.
            wait([second], timeout=0.5)
        assert second.result(60) is None


def test_the_row_of_a_held_job_is_locked(database: Database) -> None:
    """Two that end the same attempt at once: one of them."""
    put(database)
    job = claimed(database)
    start = threading.Barrier(4)

    def end() -> bool:
        start.wait()
        return finish(database, job)

    calls: list[Callable[[], bool]] = [end] * 4
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda call: call(), calls)) == [False, False, False, True]
    with database.read() as connection:
        found = find_job(connection, "p", job.id)
    assert found is not None
    assert found.lease_worker is None


@pytest.mark.parametrize(
    ("row", "machine", "is_given"),
    [
        ({}, {}, True),
        ({"place": "torch/cuda", "memory_over": 9 * GIB}, {}, True),
        ({}, LAPTOP, True),
        ({"place": "torch/cuda"}, LAPTOP, False),
        ({"place": "torch/cuda"}, GPU_BOX, True),
        ({"place": "torch/cpu"}, GPU_BOX, True),
        ({"place": "mlx/metal"}, GPU_BOX, False),
        ({"place": "mlx/metal"}, MAC, True),
        ({"memory_over": 8 * GIB}, LAPTOP, False),
        ({"memory_over": 8 * GIB}, MAC, True),
        ({"memory_over": 70 * GIB}, GPU_BOX, True),
        ({"memory_over": 70 * GIB, "place": "torch/cpu"}, GPU_BOX, False),
    ],
)
def test_a_claim_gives_what_a_machine_can_do(
    database: Database, row: dict[str, Any], machine: dict[str, int], is_given: bool
) -> None:
    put(database, **row)
    with database.write() as connection:
        found = claim_job(connection, "w", 60, machine=Machine(machine))
    assert (found is not None) == is_given
