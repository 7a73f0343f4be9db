"""`run_service_chaos`: break a service again and again while clients use it, then judge what they saw."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_clients import Caller, Client
from chaos_faults import Faults
from chaos_results import read_ends
from chaos_service import ChaosService, TrainerWatch
from service_history import find_violations
from service_takeovers import find_takeovers

REST_SECONDS = 300.0


@dataclass(slots=True)
class ChaosPlan:
    """What to run. light: seconds of a step of the NumPy engine; 0 trains with the real one. pause: seconds
    between faults, at least and at most."""

    faults: int
    seed: int = 0
    postgres: bool = False
    lease_seconds: float = 2.0
    workers: int = 3
    clients: int = 2
    light: float = 0.15
    pause: tuple[float, float] = (0.2, 2.0)


@dataclass(slots=True)
class ServiceChaos:
    """What came of it. takeovers: seconds, of kills while nothing else was broken. other_takeovers: of all
    others."""

    database: str
    lease_seconds: float
    faults: dict[str, int] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    events: int = 0
    takeovers: list[float] = field(default_factory=list)
    other_takeovers: list[float] = field(default_factory=list)
    zombie_writes_refused: int = 0
    late_writes_refused: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The same with medians in place of lists."""
        calm = self.takeovers
        return {
            "database": self.database,
            "lease_seconds": self.lease_seconds,
            "faults": sum(self.faults.values()),
            "faults_by_kind": self.faults,
            "jobs": sum(self.jobs.values()),
            "jobs_by_status": self.jobs,
            "errors": self.errors,
            "attempts": self.attempts,
            "events": self.events,
            "takeovers": len(calm),
            "takeover_seconds_median": round(statistics.median(calm), 2) if calm else None,
            "takeover_seconds_max": round(max(calm), 2) if calm else None,
            "takeovers_amid_other_faults": len(self.other_takeovers),
            "zombie_writes_refused": self.zombie_writes_refused,
            "late_writes_refused": self.late_writes_refused,
            "violations": self.violations,
            "seconds": round(self.seconds),
        }


def run_service_chaos(
    folder: Path, plan: ChaosPlan, say: Callable[[str], None] = lambda line: None
) -> ServiceChaos:
    """Run it below `folder`; the history stays there as history.jsonl. The same seed breaks the same things
    in the same order; what that meets depends on the machine."""
    started = time.monotonic()
    history: list[dict[str, Any]] = []
    result = ServiceChaos("PostgreSQL" if plan.postgres else "SQLite", plan.lease_seconds)
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        lock = threading.Lock()

        def note(kind: str, **fields: Any) -> None:
            with lock:
                history.append({"kind": kind, **fields})
                file.write(json.dumps(history[-1]) + "\n")

        service = ChaosService(
            folder,
            note,
            lease_seconds=plan.lease_seconds,
            workers=plan.workers,
            light=plan.light,
            postgres=plan.postgres,
        )
        watch = TrainerWatch(folder, note)
        try:
            odd = _run(service, history, plan, result, say)
            caller = Caller(f"http://127.0.0.1:{service.port}", service.user_key)
            for end in read_ends(caller, service.service):
                note("end", t=time.time(), **end)
            caller.close()
        finally:
            watch.close()
            service.close()
    judged = sorted(history, key=lambda record: record.get("t", record.get("end", 0.0)))
    result.violations += [*odd, *find_violations(judged, plan.lease_seconds)]
    _count(judged, result)
    result.seconds = time.monotonic() - started
    return result


def _run(
    service: ChaosService,
    history: list[dict[str, Any]],
    plan: ChaosPlan,
    result: ServiceChaos,
    say: Callable[[str], None],
) -> list[str]:
    """Until the faults are done and nothing moves any more; returns what clients were told and may not be."""
    chance = random.Random(plan.seed)
    stopping = threading.Event()
    caller = Caller(service.clients.url, service.user_key)
    file = caller.upload()
    caller.close()
    clients = [
        Client(
            Caller(service.clients.url, service.user_key),
            service.note,
            stopping,
            file,
            random.Random(plan.seed + number + 1),
            made=4 * number,
        )
        for number in range(plan.clients)
    ]
    threads = [threading.Thread(target=client.work, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    faults = Faults(service, history, chance)
    for number in range(1, plan.faults + 1):
        time.sleep(chance.uniform(*plan.pause))
        faults.next()
        if number % 20 == 0:
            jobs = sum(client.made for client in clients)
            say(f"{number} faults, {jobs} jobs: {json.dumps(faults.counts)}")
    faults.heal()
    stopping.set()
    for thread in threads:
        thread.join(REST_SECONDS)
    result.faults = faults.counts
    result.zombie_writes_refused = faults.refused
    odd = [*faults.accepted, *(line for client in clients for line in client.caller.odd)]
    return odd + ["a client is still at work" for thread in threads if thread.is_alive()]


def _count(history: list[dict[str, Any]], result: ServiceChaos) -> None:
    ends = [record for record in history if record["kind"] == "end"]
    result.jobs = dict(Counter(record["status"] for record in ends))
    result.errors = dict(Counter(record["error"] for record in ends if record["error"]))
    result.events = sum(len(record["events"]) for record in ends)
    result.attempts = sum(record["kind"] == "claim" for record in history)
    result.late_writes_refused = sum(r["kind"] == "write" and r["code"] == 409 for r in history)
    found = find_takeovers(history, result.lease_seconds)
    result.takeovers = [takeover.seconds for takeover in found if takeover.calm]
    result.other_takeovers = [takeover.seconds for takeover in found if not takeover.calm]
