"""What a run saves reaches the server, through what may go wrong on the way; what does not is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service_proxy import fault_proxy
from service_server import RunningServer, chat_rows, upload, wait_until
from service_worker import worker_by_hand
from tunewright.service.db.artifacts import newest_state
from tunewright.service.schemas.lease import EventModel, Lease, Report
from tunewright.service.worker.client import ServerClient
from tunewright.service.worker.keeper import LeaseKeeper
from tunewright.service.worker.transfer import Transfer
from tunewright.service.worker.uploads import Uploads

UNREADABLE = Path("/proc/self/mem")
"""A regular file that answers every read with an error, also to root."""
needs_unreadable = pytest.mark.skipif(not UNREADABLE.exists(), reason="needs Linux's /proc")


@dataclass
class Attempt:
    """A running job whose worker is this test, with its run folder."""

    server: RunningServer
    project: str
    lease: Lease
    run: Path

    def save(self, name: str, content: bytes = b"weights") -> Path:
        """A folder of the run, as the trainer leaves it."""
        folder = self.run / name
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(content)
        return folder

    def uploads(self, client: ServerClient, keeper: LeaseKeeper, *retry_seconds: float) -> Uploads:
        def warn(fact: str, message: str) -> None:
            event = EventModel(message=message, level="warn", fact=fact)
            keeper.call(lambda: client.report(self.lease, Report(events=[event])))

        transfer = Transfer(client, self.lease, keeper)
        return Uploads(transfer, self.run, warn, retry_seconds=retry_seconds or (0.01, 0.01))

    def checkpoints(self) -> list[int]:
        """Steps of the checkpoint models that the API shows, oldest first."""
        with self.server.client(project=self.project) as client:
            found = client.fine_tuning.jobs.checkpoints.list(self.lease.job).data
        return [item.step_number for item in reversed(found)]

    def state(self) -> int | None:
        """The step that another worker would go on from."""
        with self.server.service.database.read() as connection:
            found = newest_state(connection, self.lease.job)
        return None if found is None else found.step

    def warnings(self) -> list[str]:
        with self.server.client(project=self.project) as client:
            events = client.fine_tuning.jobs.list_events(self.lease.job, limit=100).data
        return [event.message for event in reversed(events) if event.level == "warn"]


@pytest.fixture
def attempt(server: RunningServer, project: str, tmp_path: Path) -> Attempt:
    with server.client(project=project) as client:
        file = upload(client, chat_rows(10)).id
        job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file)
    with worker_by_hand(server, tmp_path) as worker:
        lease = worker.begin(job.id)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{}", encoding="utf-8")
    (run / "plan.json").write_text('{"engine": "torch", "device": "cpu"}', encoding="utf-8")
    return Attempt(server, project, lease, run)


@pytest.fixture
def client(server: RunningServer) -> Iterator[ServerClient]:
    found = ServerClient(server.url, server.key("worker"))
    yield found
    found.close()


def test_states_and_models_are_stored_and_the_end_waits_for_the_last(
    attempt: Attempt, client: ServerClient
) -> None:
    with LeaseKeeper(client, attempt.lease) as keeper:
        uploads = attempt.uploads(client, keeper)
        for step in (1, 2):
            uploads.add_state(attempt.save(f"checkpoints/step-{step:06d}"), step)
            uploads.add_export(attempt.save(f"exports/step-{step:06d}", b"model %d" % step), step)
        uploads.finish()
    assert (attempt.state(), attempt.checkpoints(), attempt.warnings()) == (2, [1, 2], [])


@needs_unreadable
def test_what_cannot_be_read_is_tried_again(
    attempt: Attempt, client: ServerClient, caplog: pytest.LogCaptureFixture
) -> None:
    folder = attempt.save("exports/step-000001")
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(UNREADABLE)
    with LeaseKeeper(client, attempt.lease) as keeper:
        uploads = attempt.uploads(client, keeper, *[0.05] * 200)
        uploads.add_export(folder, 1)
        wait_until(lambda: "was not stored" in caplog.text, "the first try has failed")
        (folder / "weights.bin").unlink()
        (folder / "weights.bin").write_bytes(b"readable again")
        uploads.finish()
    assert (attempt.checkpoints(), attempt.warnings()) == ([1], [])


@needs_unreadable
def test_what_can_never_be_read_is_told_and_stops_nothing_else(
    attempt: Attempt, client: ServerClient
) -> None:
    broken, good = attempt.save("exports/step-000001"), attempt.save("exports/step-000002")
    (broken / "more.bin").symlink_to(UNREADABLE)
    with LeaseKeeper(client, attempt.lease) as keeper:
        uploads = attempt.uploads(client, keeper)
        uploads.add_export(broken, 1)
        uploads.add_export(good, 2)
        uploads.finish()
    assert attempt.checkpoints() == [2]
    assert attempt.warnings() == ["The checkpoint model of step 1 could not be stored: Input/output error"]


def test_a_name_that_the_server_refuses_is_told(attempt: Attempt, client: ServerClient) -> None:
    folder = attempt.save("checkpoints/step-000001")
    (folder / ".hidden").write_bytes(b"x")
    with LeaseKeeper(client, attempt.lease) as keeper:
        uploads = attempt.uploads(client, keeper)
        uploads.add_state(folder, 1)
        uploads.add_state(attempt.save("checkpoints/step-000002"), 2)
        uploads.finish()
        # The worker itself refuses to make a message that the server could not take.
        uploads = attempt.uploads(client, keeper)
        uploads.add_export(folder, 1)
        uploads.finish()
    assert attempt.state() == 2
    assert attempt.warnings()[-1] == "The checkpoint model of step 1 could not be stored: ValidationError"


def test_a_model_that_the_run_removed_is_told_and_a_state_is_not_missed(
    attempt: Attempt, client: ServerClient
) -> None:
    with LeaseKeeper(client, attempt.lease) as keeper:
        uploads = attempt.uploads(client, keeper)
        uploads.add_export(attempt.run / "exports/gone", 1)
        uploads.add_state(attempt.run / "checkpoints/gone", 1)
        uploads.add_state(attempt.save("checkpoints/step-000002"), 2)
        uploads.finish()
    assert attempt.warnings() == [
        "The checkpoint model of step 1 could not be stored: it was removed before it could be sent"
    ]
    assert attempt.state() == 2


def test_a_server_that_is_away_is_waited_for(server: RunningServer, attempt: Attempt) -> None:
    with fault_proxy(server.url) as proxy:
        client = ServerClient(proxy.url, server.key("worker"))
        with LeaseKeeper(client, attempt.lease) as keeper:
            uploads = attempt.uploads(client, keeper)
            proxy.cut()
            uploads.add_state(attempt.save("checkpoints/step-000001"), 1)
            threading.Timer(1.0, proxy.mend).start()
            uploads.finish()
        client.close()
    assert (attempt.state(), attempt.warnings()) == (1, [])


def test_nothing_is_waited_for_once_the_lease_is_lost(
    attempt: Attempt, client: ServerClient, server: RunningServer
) -> None:
    with LeaseKeeper(client, attempt.lease) as keeper:
        with server.client(project=attempt.project) as owner:
            owner.fine_tuning.jobs.cancel(attempt.lease.job)
        zombie = attempt.lease.model_copy(update={"attempt": attempt.lease.attempt + 1})
        uploads = Uploads(Transfer(client, zombie, keeper), attempt.run, lambda fact, message: None)
        for step in range(3):
            uploads.add_export(attempt.save(f"exports/step-{step:06d}"), step)
        uploads.finish()
    assert attempt.checkpoints() == []


@needs_unreadable
def test_a_warning_that_cannot_be_told_ends_nothing(attempt: Attempt, client: ServerClient) -> None:
    def fail(fact: str, message: str) -> None:
        raise OSError(message)

    (attempt.save("exports/step-000001") / "more.bin").symlink_to(UNREADABLE)
    with LeaseKeeper(client, attempt.lease) as keeper:
        uploads = Uploads(Transfer(client, attempt.lease, keeper), attempt.run, fail, retry_seconds=())
        uploads.add_export(attempt.run / "exports/step-000001", 1)
        uploads.add_export(attempt.save("exports/step-000002"), 2)
        uploads.finish()
    assert attempt.checkpoints() == [2]
