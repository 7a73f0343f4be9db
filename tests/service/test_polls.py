"""What a poll may cost: no thread, one write, short questions on a connection that stays."""

from __future__ import annotations

import asyncio
import string
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from openai import AuthenticationError
from sqlalchemy import event, text

from service_server import RunningServer, chat_rows, serve_here, upload
from service_worker import worker_by_hand
from tunewright.service.corked import corked
from tunewright.service.db.database import Connection, Database, DatabaseFault
from tunewright.service.db.events import read_metrics
from tunewright.service.db.keys import revoke_key
from tunewright.service.ids import REQUEST, new_id
from tunewright.service.schemas.lease import Report
from tunewright.service.settings import ServeSettings

QUESTIONS_OF_A_POLL = 3
"""The key, the job, and its events or its pace."""


def _running_job(home: Path, folder: Path) -> str:
    """A running job with a few steps, of a server that is gone."""
    with serve_here(ServeSettings(home)) as server, server.client() as client:
        job = client.fine_tuning.jobs.create(
            model="builtin:tiny", training_file=upload(client, chat_rows(40)).id
        ).id
        with worker_by_hand(server, folder) as worker:
            lease = worker.begin(job)
            for step in (1, 2, 3):
                worker.report(lease, step, 9, loss=1.0, step_seconds=0.5)
    return job


def test_a_poll_takes_no_thread_and_three_questions(tmp_path: Path) -> None:
    job = _running_job(tmp_path / "home", tmp_path)
    with serve_here(ServeSettings(tmp_path / "home")) as server, server.client(max_retries=0) as client:
        asked: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            asked.append(statement)

        threads = set(threading.enumerate())
        event.listen(server.service.database.engine, "before_cursor_execute", note)
        for _ in range(4):
            found = client.fine_tuning.jobs.retrieve(job)
            assert found.estimated_finish
            page = client.fine_tuning.jobs.list_events(job, limit=2)
            assert [each.message for each in page.data] == ["Step 3/9", "Step 2/9"]
        event.remove(server.service.database.engine, "before_cursor_execute", note)
        assert len(asked) == 8 * QUESTIONS_OF_A_POLL
        started = {thread.name for thread in set(threading.enumerate()) - threads}
        assert not [name for name in started if "AnyIO" in name]


def test_a_report_stores_all_of_its_steps_and_replaces_those_that_are_known(
    any_server: RunningServer, tmp_path: Path, project: str
) -> None:
    with any_server.client(project=project) as client, worker_by_hand(any_server, tmp_path) as worker:
        file = upload(client, chat_rows(40)).id
        lease = worker.begin(client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id)
        first = {step: {"loss": float(step), "epoch": 1.0} for step in range(1, 8)}
        again = {step: {"loss": 10.0 * step} for step in range(5, 10)}
        for figures in (first, again, {}):
            worker.client.report(lease, Report(metrics=figures))
        with any_server.service.database.read() as connection:
            assert dict(read_metrics(connection, lease.job)) == {
                step: {**first.get(step, {}), **again.get(step, {})} for step in range(1, 10)
            }


def test_a_kept_connection_sees_what_others_write(tmp_path: Path) -> None:
    with serve_here(ServeSettings(tmp_path / "home")) as server:
        secret = server.key()
        with server.client(key=secret, max_retries=0) as client:
            assert list(client.fine_tuning.jobs.list()) == []
            elsewhere = Database(str(server.service.database.engine.url))
            with elsewhere.write() as connection:
                [key] = connection.execute(text("select id from keys")).scalars()
                assert revoke_key(connection, key)
            elsewhere.close()
            with pytest.raises(AuthenticationError):
                client.fine_tuning.jobs.list()


def test_a_question_that_fails_spoils_nothing(database: Database) -> None:
    def count(connection: Connection) -> int:
        return connection.execute(text("select count(*) from keys")).scalar_one()

    assert database.ask_here(count) == 0
    for ask in (database.ask_here, database.ask):
        with pytest.raises(DatabaseFault):
            ask(lambda connection: connection.execute(text("select 1 from nowhere")).scalar_one())
        assert ask(count) == 0
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(database.ask_here, count).result() == 0


def test_a_refusal_leaves_the_connection_as_it_was(database: Database) -> None:
    def refuse(_: Connection) -> None:
        raise LookupError

    for _ in range(30):
        with pytest.raises(LookupError):
            database.ask_here(refuse)
    assert database.ask_here(lambda connection: connection.execute(text("select 1")).scalar_one()) == 1


class _Wire:
    """A transport that notes what reaches the system."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.sent.append(data)

    def close(self) -> None:
        self.is_closed = True

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def test_parts_of_an_answer_go_out_as_one() -> None:
    async def send() -> _Wire:
        wire = _Wire()
        transport = corked(cast(Any, wire), asyncio.get_running_loop())
        for part in (b"head, ", b"body", b""):
            transport.write(part)
        assert wire.sent == []
        await asyncio.sleep(0)
        assert wire.sent == [b"head, body"]
        transport.write(b"more")
        await asyncio.sleep(0)
        transport.write(b", and the last")
        transport.close()
        assert transport.get_extra_info("peername") == "the peername"
        await asyncio.sleep(0)
        return wire

    wire = asyncio.run(send())
    assert wire.sent == [b"head, body", b"more", b", and the last"]
    assert wire.is_closed


def test_ids_are_of_all_letters_alike() -> None:
    ids = [new_id(REQUEST) for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {len(REQUEST) + 24}
    letters = Counter("".join(each.removeprefix(REQUEST) for each in ids))
    assert set(letters) == set(string.ascii_letters + string.digits)
    # 774 of each on average; the probability that one of 62 is so far off is below 1e-9.
    assert all(550 < count < 1000 for count in letters.values()), letters
