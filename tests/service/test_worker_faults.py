"""What a worker and the server make of lost workers, silent lines and answers that come too late."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from service_proxy import fault_proxy
from service_server import RunningServer, chat_rows, serve_here, upload, wait_until
from service_worker import HandWorker, worker_by_hand
from tunewright.errors import ServiceError
from tunewright.service.db.events import list_events
from tunewright.service.db.files import find_stored_file
from tunewright.service.db.jobs import change_job, find_job
from tunewright.service.ids import WORKER, new_id
from tunewright.service.records import JobRecord
from tunewright.service.schemas.lease import Claim, Finish, Renewed, StoredFileModel
from tunewright.service.settings import ServeSettings
from tunewright.service.worker.attempt import work_on
from tunewright.service.worker.client import ServerAway, ServerClient
from tunewright.service.worker.keeper import LeaseKeeper

LEASE_SECONDS = 2.0
LATE_SECONDS = 0.3
"""Below the time that a worker waits for the answer, a fifth of a lease."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve_here(
        ServeSettings(home=tmp_path_factory.mktemp("home"), lease_seconds=LEASE_SECONDS)
    ) as running:
        yield running


@pytest.fixture
def worker(server: RunningServer, tmp_path: Path) -> Iterator[HandWorker]:
    with worker_by_hand(server, tmp_path) as found:
        yield found


@pytest.fixture
def job(server: RunningServer, project: str) -> str:
    with server.client(project=project) as client:
        file = upload(client, chat_rows(10)).id
        return client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id


def record(server: RunningServer, project: str, job: str) -> JobRecord:
    with server.service.database.read() as connection:
        found = find_job(connection, project, job)
    assert found is not None
    return found


def test_a_lost_worker_is_replaced_as_soon_as_its_lease_is_over(
    server: RunningServer, worker: HandWorker, project: str, job: str
) -> None:
    first = worker.begin(job)
    for lost in (1, 2):
        lease = wait_until(worker.claim, "the job is given away again", seconds=30)
        assert (lease.job, lease.attempt) == (job, first.attempt + lost)
        with server.service.database.read() as connection:
            events, _ = list_events(connection, job, 10, None) or ([], False)
        told = [event for event in events if event.message.startswith("The worker was lost")]
        assert len(told) == lost
        assert record(server, project, job).not_before - told[0].created_at < 0.5
    worker.client.finish(lease, Finish(outcome="failed", exit_code=2, code="x", message=""))


def test_only_a_newer_state_forgets_failures(
    server: RunningServer, worker: HandWorker, project: str, job: str
) -> None:
    """A worker that takes a job up again sends what it finds in its folder; that is no progress."""
    killed = Finish(outcome="failed", exit_code=137, message="killed")
    lease = worker.begin(job)
    for step, failures in ((3, 1), (3, 2), (2, 3), (4, 1)):
        worker.save(lease, "state", step)
        worker.client.finish(lease, killed)
        assert record(server, project, job).failures == failures
        with server.service.database.write() as connection:
            change_job(connection, job, not_before=0.0)
        if step < 4:
            lease = worker.claim_job(job)


def test_workers_ask_as_often_as_the_lease_wants(server: RunningServer, tmp_path: Path) -> None:
    claim = Claim(worker=new_id(WORKER), name="asks")
    with serve_here(ServeSettings(home=tmp_path)) as slow:
        for each, seconds in ((server, LEASE_SECONDS / 10), (slow, 1.0)):
            client = ServerClient(each.url, each.key("worker"))
            while client.claim(claim):
                pass
            assert client.poll_seconds == seconds
            client.close()


def test_a_line_that_went_silent_does_not_cost_the_lease(
    server: RunningServer, worker: HandWorker, job: str
) -> None:
    lease = worker.begin(job)
    with fault_proxy(server.url) as proxy:
        client = ServerClient(proxy.url, server.key("worker"))
        proxy.hold_answers = 1
        with LeaseKeeper(client, lease) as keeper:
            time.sleep(1.5 * LEASE_SECONDS)
            assert not keeper.is_lost
            assert proxy.connections > 1
        client.close()
    worker.client.finish(lease, Finish(outcome="failed", exit_code=2, code="x", message=""))


class _LateOnce(BaseHTTPRequestHandler):
    """Renews a lease once, with a late answer, and is not well after that."""

    came: ClassVar[list[float]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.came.append(time.monotonic())
        if len(self.came) == 1:
            time.sleep(LATE_SECONDS)
        body = Renewed(wanted="run").model_dump_json().encode()
        self.send_response(200 if len(self.came) == 1 else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_lease_counts_from_the_question_not_from_a_late_answer(
    server: RunningServer, worker: HandWorker, job: str
) -> None:
    lease = worker.begin(job)
    with HTTPServer(("127.0.0.1", 0), _LateOnce) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        client = ServerClient(f"http://127.0.0.1:{stub.server_port}", "key")
        with LeaseKeeper(client, lease) as keeper:
            asked = wait_until(lambda: _LateOnce.came, "the lease is renewed")[0]
            wait_until(lambda: len(_LateOnce.came) > 1, "the answer came")
            # Whoever counts from the answer still trains then, when the job may be another worker's.
            time.sleep(max(0.0, asked + LEASE_SECONDS - time.monotonic()))
            assert keeper.is_lost
        client.close()
        stub.shutdown()


def test_a_lease_opens_the_bytes_that_it_names_and_no_others(
    server: RunningServer, worker: HandWorker, job: str, tmp_path: Path
) -> None:
    with server.client(project="somebody-else") as client:
        other = upload(client, chat_rows(11)).id
    with server.service.database.read() as connection:
        foreign = find_stored_file(connection, other)
    lease = worker.begin(job)
    own = StoredFileModel(path="own", sha256=lease.training.sha256, bytes=lease.training.bytes)
    worker.client.fetch_blob(lease, own, tmp_path / "own")
    assert (tmp_path / "own").stat().st_size == own.bytes
    stolen = StoredFileModel(path="stolen", sha256=foreign.sha256, bytes=foreign.bytes)
    with pytest.raises(ServiceError, match="no_such_blob"):
        worker.client.fetch_blob(lease, stolen, tmp_path / "stolen")
    assert not (tmp_path / "stolen").exists()
    worker.client.finish(lease, Finish(outcome="failed", exit_code=2, code="x", message=""))


def test_bytes_that_the_server_lost_end_the_attempt_with_a_named_error(
    server: RunningServer, worker: HandWorker, project: str, tmp_path: Path
) -> None:
    with server.client(project=project) as client:
        file = upload(client, chat_rows(13)).id
        job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
    lease = worker.claim_job(job)
    server.service.blobs.remove(lease.training.sha256)
    told = (worker.client, lease, tmp_path / "jobs", lambda: False)
    attempt = threading.Thread(target=work_on, args=told, daemon=True)
    attempt.start()
    attempt.join(timeout=30)
    assert not attempt.is_alive()
    with server.service.database.read() as connection:
        events, _ = list_events(connection, job, 10, None) or ([], False)
    assert "the server does not have a file of this job" in events[0].message
    assert "no_such_blob" in events[0].message
    with server.client(project=project) as client:
        client.fine_tuning.jobs.cancel(job)


class _TooSlow(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(408)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_body_that_came_too_slowly_is_sent_again() -> None:
    with HTTPServer(("127.0.0.1", 0), _TooSlow) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        client = ServerClient(f"http://127.0.0.1:{stub.server_port}", "key")
        with pytest.raises(ServerAway):
            client.claim(Claim(worker=new_id(WORKER), name="slow"))
        client.close()
        stub.shutdown()


class _NotOurs(BaseHTTPRequestHandler):
    """Another program, or a proxy that wants https."""

    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b"<html>Welcome</html>"
        self.send_response(self.status)
        if self.status != 200:
            self.send_header("location", "https://elsewhere.example/worker/claim")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("status", "told"), [(200, "<html>"), (301, "https://elsewhere"), (307, "https://elsewhere")]
)
def test_an_answer_that_is_not_the_servers_is_named(
    status: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_NotOurs, "status", status)
    with HTTPServer(("127.0.0.1", 0), _NotOurs) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        client = ServerClient(f"http://127.0.0.1:{stub.server_port}", "key")
        with pytest.raises(ServiceError, match=told) as caught:
            client.claim(Claim(worker=new_id(WORKER), name="lost"))
        assert caught.value.code == "service.unreachable"
        client.close()
        stub.shutdown()
