"""Every kind of answer is what OpenAI's OpenAPI document says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from openai_schemas import faults
from service_server import RunningServer, chat_rows, upload
from service_worker import worker_by_hand

Call = Callable[..., Any]


@pytest.fixture
def call(server: RunningServer, project: str) -> Iterator[Call]:
    """Make a raw call and hold its JSON against a schema; returns the JSON."""
    with httpx2.Client(
        base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {server.key(project=project)}"}
    ) as http:

        def make(schema: str, method: str, path: str, **given: Any) -> Any:
            answer = http.request(method, path, **given)
            expected = range(400, 500) if schema == "ErrorResponse" else range(200, 300)
            assert answer.status_code in expected, answer.text
            found = answer.json()
            assert faults(schema, found) == [], found
            return found

        yield make


def test_files(call: Call) -> None:
    assert call("ListFilesResponse", "GET", "/files")["data"] == []
    form = {"purpose": "fine-tune"}
    file = {"file": ("rows.jsonl", b"{}\n")}
    made = call("OpenAIFile", "POST", "/files", data=form, files=file)
    expiring = {**form, "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    call("OpenAIFile", "POST", "/files", data=expiring, files=file)
    assert len(call("ListFilesResponse", "GET", "/files")["data"]) == 2
    call("OpenAIFile", "GET", f"/files/{made['id']}")
    call("DeleteFileResponse", "DELETE", f"/files/{made['id']}")


def test_jobs_events_checkpoints_and_models(
    call: Call, server: RunningServer, project: str, tmp_path: Path
) -> None:
    call("ListPaginatedFineTuningJobsResponse", "GET", "/fine_tuning/jobs")
    with server.client(project=project) as client:
        file = upload(client, chat_rows(10)).id
    body = {"model": "builtin:tiny", "training_file": file, "metadata": {"a": "b"}, "suffix": "s"}
    job = call("FineTuningJob", "POST", "/fine_tuning/jobs", json=body)["id"]
    place = f"/fine_tuning/jobs/{job}"

    def look(status: str) -> Any:
        found = call("FineTuningJob", "GET", place)
        assert found["status"] == status
        call("ListFineTuningJobEventsResponse", "GET", f"{place}/events?limit=100")
        call("ListFineTuningJobCheckpointsResponse", "GET", f"{place}/checkpoints")
        return found

    look("validating_files")
    with worker_by_hand(server, tmp_path) as worker:
        lease = worker.begin(job)
        worker.report(lease, 1, 2, loss=1.0, token_accuracy=0.5, valid_loss=2.0, valid_token_accuracy=0.25)
        look("running")
        call("FineTuningJob", "POST", f"{place}/pause")
        look("pausing")
        worker.save(lease, "checkpoint", 1)
        worker.succeed(lease, 2)
    done = look("succeeded")
    call("ListFilesResponse", "GET", "/files")
    call("ListModelsResponse", "GET", "/models")
    call("Model", "GET", f"/models/{done['fine_tuned_model']}")
    call("DeleteModelResponse", "DELETE", f"/models/{done['fine_tuned_model']}")
    other = call("FineTuningJob", "POST", "/fine_tuning/jobs", json=body)["id"]
    with worker_by_hand(server, tmp_path) as worker:
        worker.validate(other, rows=1)
    assert call("FineTuningJob", "GET", f"/fine_tuning/jobs/{other}")["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/files/none"),
        ("POST", "/files"),
        ("GET", "/fine_tuning/jobs?limit=x"),
        ("POST", "/fine_tuning/jobs"),
        ("DELETE", "/fine_tuning/jobs"),
        ("GET", "/models/none"),
        ("POST", "/uploads"),
        ("POST", "/fine_tuning/alpha/graders/run"),
        ("GET", "/fine_tuning/checkpoints/x/permissions"),
        ("GET", "/nowhere"),
    ],
)
def test_refusals(method: str, path: str, call: Call) -> None:
    call("ErrorResponse", method, path)


def test_a_schema_says_no_when_it_should() -> None:
    assert faults("OpenAIFile", {"id": "x"})
    assert faults("FineTuningJob", {"status": "lost"})
    assert faults("ErrorResponse", {"detail": "no"})
