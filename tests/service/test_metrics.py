"""What Prometheus reads."""

from __future__ import annotations

import httpx2
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from service_server import RunningServer, chat_rows, upload


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
