"""What is done to a service: each fault a method that returns whether it found something to break."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from chaos_service import ChaosService, Worker
from service_takeovers import held_by
from tap_proxy import TapProxy
from tunewright.service.ids import WORKER, new_id
from tunewright.service.schemas.lease import Claim, EventModel, Finish, Lease, NewArtifact, Report
from tunewright.service.worker.client import LeaseLost, ServerAway, ServerClient

WEIGHTS = {
    "kill worker": 11,
    "kill trainer": 8,
    "kill server": 5,
    "kill database": 5,
    "freeze worker": 6,
    "freeze machine": 4,
    "zombie writes": 8,
    "cut worker": 15,
    "hold worker": 7,
    "part worker": 6,
    "cut clients": 14,
    "hold clients": 10,
}
CALM_SHARE = 0.5
ELSEWHERE_SHARE = 0.3
FROZEN_LEASES = 1.4


class Faults:
    """Breaks things at random. counts: faults by kind; refused: writes of zombies that were refused."""

    def __init__(self, service: ChaosService, history: list[dict[str, Any]], chance: random.Random) -> None:
        self.counts: dict[str, int] = {}
        self.refused = 0
        self.accepted: list[str] = []
        self._service = service
        self._history = history
        self._chance = chance
        self._busy: list[threading.Thread] = []
        self._down = threading.Lock()

    def next(self) -> None:
        """Do one fault."""
        kinds = [kind for kind in WEIGHTS if kind != "kill database" or self._service.database]
        while True:
            [kind] = self._chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])
            if getattr(self, f"_{kind.replace(' ', '_')}")():
                self.counts[kind] = self.counts.get(kind, 0) + 1
                return
            time.sleep(0.05)

    def heal(self) -> None:
        """Wait until everything that was broken is whole again."""
        for thread in self._busy:
            thread.join()

    def _note(self, what: str, worker: str = "", seconds: float = 0.0, calm: bool = False) -> None:
        now = time.time()
        self._service.note("fault", t=now, until=now + seconds, what=what, worker=worker, calm=calm)

    def _later(self, seconds: float, do: Callable[[], Any]) -> None:
        def run() -> None:
            time.sleep(seconds)
            do()

        self._busy = [thread for thread in self._busy if thread.is_alive()]
        self._busy.append(threading.Thread(target=run, daemon=True))
        self._busy[-1].start()

    def _some_worker(self) -> Worker | None:
        whole = [worker for worker in self._service.workers if worker.is_alive and not worker.frozen]
        return self._chance.choice(whole) if whole else None

    def _kill_worker(self) -> bool:
        worker = self._some_worker()
        if worker is None:
            return False
        holds = self._holds(worker)
        if not holds and self._chance.random() < 0.5:
            # Those that work are worth more.
            return False
        calm = holds and self._chance.random() < CALM_SHARE
        if calm:
            # What was broken before may not count against the takeover.
            self.heal()
        self._note("kill worker", worker.name, calm=calm)
        self._service.kill_worker(worker)
        elsewhere = self._chance.random() < ELSEWHERE_SHARE
        wait = 2 * self._service.lease_seconds if calm else self._chance.uniform(0, 1.5)
        self._later(wait, lambda: self._service.start_worker(worker, elsewhere=elsewhere))
        if calm:
            self.heal()
        return True

    def _holds(self, worker: Worker) -> bool:
        return held_by(list(self._history), worker.name, time.time()) is not None

    def _kill_trainer(self) -> bool:
        worker = self._some_worker()
        trainers = self._service.trainers(worker) if worker else []
        if not worker or not trainers:
            return False
        self._note("kill trainer", worker.name)
        with suppress(ProcessLookupError):
            os.kill(self._chance.choice(trainers), signal.SIGKILL)
        return True

    def _kill_server(self) -> bool:
        if not self._down.acquire(blocking=False):
            return False
        self._note("kill server")
        self._service.kill_server()

        def start() -> None:
            self._service.start_server()
            self._down.release()

        self._later(self._chance.choice((0, 0, 1.0)), start)
        return True

    def _kill_database(self) -> bool:
        database = self._service.database
        if database is None or not self._down.acquire(blocking=False):
            return False
        self._note("kill database")
        database.kill()

        def start() -> None:
            database.start()
            self._down.release()

        self._later(self._chance.choice((0, 0, 1.0)), start)
        return True

    def _freeze_worker(self) -> bool:
        return self._freeze("freeze worker", whole=False)

    def _freeze_machine(self) -> bool:
        return self._freeze("freeze machine", whole=True)

    def _freeze(self, what: str, *, whole: bool) -> bool:
        worker = self._some_worker()
        if worker is None:
            return False
        seconds = FROZEN_LEASES * self._service.lease_seconds
        self._note(what, worker.name, seconds)
        self._service.freeze(worker, whole=whole)
        self._later(seconds, lambda: self._service.thaw(worker))
        return True

    def _break_line(self, what: str, tap: TapProxy, worker: str = "") -> bool:
        seconds = self._chance.uniform(0.4, 1.5) * self._service.lease_seconds
        self._note(what, worker, 0.0 if what.startswith("cut") else seconds)
        if what.startswith("cut"):
            tap.cut()
        elif what.startswith("hold"):
            tap.hold(seconds)
            self._later(seconds, lambda: None)
        else:
            tap.refuse(seconds)
            self._later(seconds, lambda: None)
        return True

    def _cut_worker(self) -> bool:
        worker = self._chance.choice(self._service.workers)
        return self._break_line("cut worker", worker.tap, worker.name)

    def _hold_worker(self) -> bool:
        worker = self._chance.choice(self._service.workers)
        return self._break_line("hold worker", worker.tap, worker.name)

    def _part_worker(self) -> bool:
        worker = self._chance.choice(self._service.workers)
        return self._break_line("part worker", worker.tap, worker.name)

    def _cut_clients(self) -> bool:
        return self._break_line("cut clients", self._service.clients)

    def _hold_clients(self) -> bool:
        return self._break_line("hold clients", self._service.clients)

    def _zombie_writes(self) -> bool:
        """A worker that takes a job, says nothing for longer than its lease, and then writes all there is."""
        client = ServerClient(f"http://127.0.0.1:{self._service.port}", self._service.worker_key)
        asked = time.time()
        try:
            lease = client.claim(Claim(worker=new_id(WORKER), name="zombie"))
        except ServerAway:
            lease = None
        if lease is None:
            client.close()
            return False
        self._note("zombie writes", "zombie")
        self._service.note(
            "claim", t0=asked, t=time.time(), worker="zombie", job=lease.job, attempt=lease.attempt
        )
        self._later(FROZEN_LEASES * self._service.lease_seconds, lambda: self._write_late(client, lease))
        return True

    def _write_late(self, client: ServerClient, lease: Lease) -> None:
        event = EventModel(message="written by a zombie", fact="zombie")
        writes: dict[str, Callable[[], object]] = {
            "renew": lambda: client.renew(lease),
            "report": lambda: client.report(lease, Report(events=[event], step=10**6)),
            "artifacts": lambda: client.add_artifact(lease, NewArtifact(kind="state", step=10**6, files=[])),
            "finish": lambda: client.finish(lease, Finish(outcome="failed", exit_code=2, message="zombie")),
        }
        for name, write in writes.items():
            if self._is_refused(write):
                self.refused += 1
            else:
                self.accepted.append(f"{lease.job}: {name} of a zombie, attempt {lease.attempt}")
        client.close()

    def _is_refused(self, write: Callable[[], object]) -> bool:
        while True:
            try:
                write()
            except LeaseLost:
                return True
            except ServerAway:
                time.sleep(0.2)
            else:
                return False
