"""A base model by its name on the hub, and the calls of people who use curl and a loop of their own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from service_server import RunningServer, chat_rows, serve_as_process
from tunewright.cli.main import run

NAME = "mlx-community/Qwen2.5-1.5B-4bit"
PATIENCE = 240.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("slash")
    data = found / "data"
    data.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in chat_rows(12))
    (data / "test_data.jsonl").write_text(lines, encoding="utf-8")
    rows = [{"instruction": "Add", "input": f"{n}+{n}", "output": str(2 * n)} for n in range(12)]
    (data / "alpaca_data.json").write_text(json.dumps(rows), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    flags = ("--model", f"{NAME}=builtin:tiny", "--data-dir", folder / "data", "--lease-seconds", "20")
    with serve_as_process(folder, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {server.key('admin')}"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=60) as found:
        yield found


def poll(http: httpx2.Client, job: str) -> dict[str, object]:
    """The job once it is over."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = http.get(f"/v1/fine-tuning/jobs/{job}").json()
        if found["status"] in ("succeeded", "failed"):
            return found
        assert time.monotonic() < deadline, found["status"]
        time.sleep(0.5)


def test_curl_lines_queue_and_show_a_job(server: RunningServer) -> None:
    """`curl -d` says that the body is a form."""
    body = {"training_file": "alpaca_data.json", "model": NAME, "format": "alpaca"}
    key = ("-H", f"Authorization: Bearer {server.key()}")
    place = f"{server.url}/v1/fine-tuning/jobs"

    def curl(*arguments: str) -> dict[str, str]:
        done = subprocess.run(["curl", "-sS", *key, *arguments], capture_output=True, check=True, timeout=60)
        return json.loads(done.stdout)

    made = curl("-X", "POST", place, "-d", json.dumps(body))
    assert made["object"] == "fine_tuning.job", made
    assert made["model"] == NAME
    assert curl(f"{place}/{made['id']}")["id"] == made["id"]
    assert curl("-X", "POST", f"{place}/{made['id']}/cancel")["status"] == "cancelled"


def test_a_program_that_polls_gets_its_model(http: httpx2.Client) -> None:
    settings = {"n_epochs": 1, "batch_size": 4, "learning_rate": 5e-5, "use_lora": True, "lora_r": 8}
    body = {"model": NAME, "training_file": "test_data.jsonl", "hyperparameters": settings}
    made = http.post("/v1/fine-tuning/jobs", json=body)
    assert made.status_code == 200, made.text
    done = poll(http, made.json()["id"])
    assert done["status"] == "succeeded", done["error"]
    tuned = str(done["fine_tuned_model"])
    assert tuned.startswith(f"ft:{NAME}:default::")
    for name in (NAME, tuned):
        # Clients of one generation send the slash as it is, those of another encoded.
        for shown in (name, quote(name, safe=""), quote(name, safe=":")):
            assert http.get(f"/v1/models/{shown}").json()["id"] == name
        chat = {"model": name, "messages": [{"role": "user", "content": "1+1"}], "max_tokens": 2}
        answer = http.post("/v1/chat/completions", json=chat)
        assert (answer.status_code, answer.json().get("model")) == (200, name), answer.text
    again = http.post("/v1/fine_tuning/jobs", json={**body, "model": tuned})
    assert again.json()["model"] == tuned, again.text
    http.post(f"/v1/fine_tuning/jobs/{again.json()['id']}/cancel")
    encoded = quote(tuned, safe="")
    assert http.delete(f"/v1/models/{quote(NAME, safe='')}").status_code == 400
    assert http.delete(f"/v1/models/{encoded}").json() == {"id": tuned, "object": "model", "deleted": True}
    assert http.get(f"/v1/models/{encoded}").status_code == 404
    told = http.get("/metrics").text
    assert 'route="/v1/models/{name}"' in told
    assert "Qwen" not in told


@pytest.mark.parametrize(
    "name", ["/x", "x/", "a//b", "a/../b", "./a", "a/.b", "ft:x", "", "a b", "x" * 97, "a/-b"]
)
def test_a_name_that_no_path_can_hold_is_refused(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--home", str(tmp_path), "--check", "--model", f"{name}=builtin:tiny"]) == 2
    assert "is not NAME=MODEL" in capfd.readouterr().err
