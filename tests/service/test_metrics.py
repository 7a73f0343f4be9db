"""What Prometheus reads."""

from __future__ import annotations

import dataclasses
import shutil
import ssl
from pathlib import Path

import httpx2
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update

from service_server import RunningServer, chat_rows, serve_here, upload
from tunewright.service.db.blobs import add_blob
from tunewright.service.db.database import Database, clock
from tunewright.service.db.events import record_metrics
from tunewright.service.db.figures import read_figures
from tunewright.service.db.jobs import add_job
from tunewright.service.db.queue import note_worker
from tunewright.service.db.tables import attempts, workers
from tunewright.service.metrics import render_metrics
from tunewright.service.settings import ServeSettings

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def scrape(server: RunningServer, *scopes: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = httpx2.get(
        f"{server.url}/metrics", headers={"authorization": f"Bearer {server.key(*(scopes or ('metrics',)))}"}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_jobs_and_requests_are_counted(server: RunningServer, client: OpenAI) -> None:
    before = scrape(server)
    file = upload(client, chat_rows(10)).id
    job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
    client.fine_tuning.jobs.retrieve(job)
    client.fine_tuning.jobs.retrieve(job)
    after = scrape(server, "admin")

    def change(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before.get(key, 0.0)

    assert change("tunewright_jobs", status="validating_files") == 1
    assert change("tunewright_jobs", status="succeeded") == 0
    one = {"method": "GET", "status": "200", "route": "/v1/fine_tuning/jobs/{job_id}"}
    assert change("tunewright_http_requests_total", **one) == 2
    made = {"method": "POST", "status": "200", "route": "/v1/fine_tuning/jobs"}
    assert change("tunewright_http_requests_total", **made) == 1
    assert change("tunewright_http_request_seconds_count", route="/v1/files") == 1
    assert value(after, "tunewright_database_up") == 1
    assert value(after, "tunewright_queue_wait_seconds") > 0
    assert 0 < value(after, "tunewright_disk_free_bytes") <= value(after, "tunewright_disk_total_bytes")
    assert value(after, "tunewright_stored_bytes") > 0
    assert value(after, "process_resident_memory_bytes") > 10e6
    assert value(after, "tunewright_leases") == 0


def test_no_caller_makes_series_of_his_own(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {server.key()}"}
    for path in ("files/one", "files/two/content", "models/a/b", "nothing", "fine-tuning/jobs/x"):
        assert httpx2.get(f"{server.url}/v1/{path}", headers=headers).status_code == 404
    routes = {
        dict(labels)["route"] for name, labels in scrape(server) if name == "tunewright_http_requests_total"
    }
    assert {
        "/v1/files/{file_id}",
        "/v1/files/{file_id}/content",
        "/v1/models/{name}",
        "/v1/fine-tuning/jobs/{job_id}",
        "none",
    } <= routes
    assert not any("one" in route.split("/") or "nothing" in route for route in routes)


@pytest.mark.parametrize("scopes", [("jobs",), ("worker",), ("jobs", "worker")])
def test_metrics_need_a_key_for_them(scopes: tuple[str, ...], server: RunningServer) -> None:
    url = f"{server.url}/metrics"
    assert httpx2.get(url).status_code == 401
    answer = httpx2.get(url, headers={"authorization": f"Bearer {server.key(*scopes)}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_permissions")


def test_a_key_for_metrics_reads_nothing_else(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {server.key('metrics')}"}
    assert httpx2.get(f"{server.url}/v1/files", headers=headers).status_code == 403
    assert httpx2.post(f"{server.url}/worker/claim", json={}, headers=headers).status_code == 403


def test_the_figures_of_both_databases(database: Database) -> None:
    with database.write() as connection:
        now = clock(connection)
        job = {
            "project": "p",
            "model": "m",
            "training_file": "f",
            "seed": 0,
            "request": {},
            "hyperparameters": {},
            "created_at": now - 1000,
        }
        over = {"started_at": now - 900, "finished_at": now - 850}
        add_job(connection, {**job, "id": "done", "status": "succeeded", **over})
        add_job(connection, {**job, "id": "more", "status": "succeeded", **over, "finished_at": now - 875})
        add_job(connection, {**job, "id": "bad", "status": "failed", **over})
        # Cancelled before it was started: it lasted no time at all.
        add_job(connection, {**job, "id": "never", "status": "cancelled", "finished_at": now})
        add_job(connection, {**job, "id": "waits", "status": "queued", "created_at": now - 30})
        add_job(connection, {**job, "id": "later", "status": "queued", "not_before": now + 60})
        held = {"status": "running", "lease_worker": "w1", "step": 7}
        add_job(connection, {**job, "id": "runs", **held, "lease_expires": now + 50})
        add_job(connection, {**job, "id": "quiet", **held, "lease_expires": now + 20, "lease_worker": "w2"})
        for number, tokens in (("runs", 100.0), ("quiet", None)):
            record_metrics(connection, number, 1, {6: {"tokens_per_second": 1e6}})
            record_metrics(connection, number, 1, {7: {"tokens_per_second": tokens}})
        for worker in ("w1", "w2", "idle"):
            note_worker(connection, worker, worker, {})
        connection.execute(update(workers).where(workers.c.id != "idle").values(seen_at=now - 500))
        note_worker(connection, "gone", "gone", {})
        connection.execute(update(workers).where(workers.c.id == "gone").values(seen_at=now - 500))
        connection.execute(
            insert(attempts),
            [
                {"job_id": "runs", "number": number, "worker": "w", "phase": "train", "started_at": 1.0}
                | {"outcome": outcome}
                for number, outcome in enumerate(("lost", "failed", "lost", None))
            ],
        )
        add_blob(connection, "a" * 64, 123)
    with database.read() as connection:
        found = read_figures(connection, 60.0)
    assert found.jobs == {"succeeded": 2, "failed": 1, "cancelled": 1, "queued": 2, "running": 2}
    assert found.finished == {"succeeded": (2, pytest.approx(75)), "failed": (1, pytest.approx(50))}
    assert found.longest_wait == pytest.approx(30, abs=20)
    assert (found.leases, found.lost_attempts, found.workers) == (2, 2, 3)
    # The lease of 60 s that has 20 s left was renewed 40 s ago.
    assert found.lease_age == pytest.approx(40, abs=20)
    assert found.tokens_per_second == 100.0
    assert found.stored_bytes == 123


def test_an_empty_database_has_figures(database: Database) -> None:
    with database.read() as connection:
        found = read_figures(connection, 60.0)
    assert (found.jobs, found.finished, found.longest_wait, found.lease_age) == ({}, {}, 0.0, 0.0)


def test_a_database_that_is_away_shows(tmp_path: Path) -> None:
    with serve_here(ServeSettings(home=tmp_path)) as server:
        service = server.service
        away = dataclasses.replace(service, database=Database("sqlite:////nowhere/tunewright.db"))
        text = render_metrics(away).decode()
    assert "tunewright_database_up 0.0" in text
    assert "tunewright_disk_free_bytes" in text
    assert "tunewright_jobs" not in text


def test_a_fault_of_the_server_is_counted_and_leaves_the_connection_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_here(ServeSettings(home=tmp_path)) as server, server.client(max_retries=0) as client:
        file = upload(client, chat_rows(1)).id
        shutil.rmtree(tmp_path / "blobs" / "objects")
        headers = {"authorization": f"Bearer {server.key()}"}
        with httpx2.Client(verify=NO_CERTIFICATES) as http:
            for _ in range(3):
                answer = http.get(f"{server.url}/v1/files/{file}/content", headers=headers)
                assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
                assert http.get(f"{server.url}/health").status_code == 200
        found = scrape(server)
    labels = {"method": "GET", "route": "/v1/files/{file_id}/content", "status": "500"}
    assert value(found, "tunewright_http_requests_total", **labels) == 3
    assert caplog.text.count("Traceback") == 3
