"""Kill workers that train and measure how long their jobs wait for others: `run_takeovers`."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos_clients import JOBS, Caller, Client
from chaos_service import ChaosService
from service_server import wait_until
from service_takeovers import Takeover, find_takeovers
from tunewright.service.db.artifacts import newest_state

STEP_SECONDS = 10.0
START_SECONDS = 300.0


def run_takeovers(
    folder: Path, count: int, lease_seconds: float, say: Callable[[str], None] = lambda line: None
) -> list[Takeover]:
    """Train `count` jobs at a time, each on its own worker, kill these workers one after the other while as
    many wait for work, and return the takeovers. The steps of the jobs are long and cost nothing."""
    history: list[dict[str, Any]] = []

    def note(kind: str, **fields: Any) -> None:
        history.append({"kind": kind, **fields})

    service = ChaosService(
        folder, note, lease_seconds=lease_seconds, workers=count, light=STEP_SECONDS, postgres=False
    )
    try:
        caller = Caller(f"http://127.0.0.1:{service.port}", service.user_key)
        client = Client(caller, note, threading.Event(), caller.upload(), random.Random(0))
        jobs = [client.create(seed) for seed in range(count)]
        wait_until(lambda: all(_state(service, job) for job in jobs), "all train and save", START_SECONDS)
        first = list(service.workers)
        for _ in range(count):
            service.add_worker()
        waiting = {worker.name for worker in service.workers[count:]}

        def all_wait() -> bool:
            return waiting <= {record["worker"] for record in history if record["kind"] == "idle"}

        wait_until(all_wait, "as many workers wait", START_SECONDS)
        say(f"{count} jobs train, {count} workers wait")
        for worker in first:
            now = time.time()
            note("fault", t=now, until=now, what="kill worker", worker=worker.name, calm=True)
            service.kill_worker(worker)
            time.sleep(1.0)
        since = time.time()

        def taken() -> bool:
            claims = [record for record in history if record["kind"] == "claim"]
            return len({r["job"] for r in claims if r["worker"] in waiting}) == count

        wait_until(taken, "every job is taken over", 3 * lease_seconds + 60)
        say(f"all taken over {time.time() - since:.0f} s after the last kill")
        for job in jobs:
            caller.call("POST", f"{JOBS}/{job}/cancel")
        caller.close()
    finally:
        service.close()
    ordered = sorted(history, key=lambda record: record["t"])
    return find_takeovers(ordered, lease_seconds)


def _state(service: ChaosService, job: str) -> bool:
    with service.service.database.read() as connection:
        return newest_state(connection, job) is not None
