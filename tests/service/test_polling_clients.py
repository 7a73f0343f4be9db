"""The instrument of `make service-load`: that it sees what goes wrong, and counts right."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import polling_clients
from polling_clients import Load, Watched, watch
from polling_report import Phase, find_met, report_polls
from service_server import RunningServer, chat_rows, upload

CLIENTS = 6


@contextmanager
def static_endpoint(bodies: dict[str, str]) -> Iterator[int]:
    command = [sys.executable, polling_clients.__file__, "static"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(bodies) + "\n")
        process.stdin.flush()
        yield int(process.stdout.readline())
        process.stdin.close()


def ask_for(path: str, secret: str = "none") -> str:
    return f"GET {path} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {secret}\r\n\r\n"


@pytest.fixture
def load(server: RunningServer, project: str) -> Load:
    """Every client asks for a job and its events, each four times, with a key of its own."""
    with server.client(project=project) as client:
        file = upload(client, chat_rows(40)).id
        job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
    path = f"/v1/fine_tuning/jobs/{job}"
    keys = [server.key(project=project) for _ in range(CLIENTS)]
    clients = [[ask_for(path, key), ask_for(f"{path}/events", key)] for key in keys]
    return Load("127.0.0.1", urlsplit(server.url).port or 0, clients, every=0.1, seconds=0.75)


def test_every_poll_is_answered_on_one_connection(load: Load) -> None:
    found = asyncio.run(watch(load))
    assert found.errors == []
    assert len(found.seconds) == 8 * CLIENTS
    assert found.connections == CLIENTS
    found = asyncio.run(watch(replace(load, keeps=False)))
    assert (found.errors, found.connections) == ([], 8 * CLIENTS)


def test_refusals_and_lost_connections_are_errors(load: Load) -> None:
    refused = replace(load, clients=[[ask_for("/v1/fine_tuning/jobs")]], seconds=0.15)
    assert asyncio.run(watch(refused)).errors == ["status 401", "status 401"]
    nobody = replace(load, port=1)
    assert len(asyncio.run(watch(nobody)).errors) == CLIENTS


def test_the_static_endpoint_answers_as_it_was_told(load: Load) -> None:
    with static_endpoint({"": "a job", "/events": "events of it"}) as port:
        command = [sys.executable, polling_clients.__file__, "poll"]
        asked = json.dumps(asdict(replace(load, port=port)))
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
        found = Watched(**json.loads(done.stdout))
        assert (found.errors, len(found.seconds)) == ([], 8 * CLIENTS)

        async def read(path: str) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ask_for(path).encode())
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.read(20)
            writer.close()
            return body

        assert asyncio.run(read("/v1/fine_tuning/jobs/x/events?limit=20")) == b"events of it"
        assert asyncio.run(read("/v1/fine_tuning/jobs/x")) == b"a job"


def test_the_report_takes_out_what_the_clients_cost() -> None:
    phases = {
        "quiet": Phase(10.0, 0.1, [], [], [1.0, 1.1, 1.2]),
        "static": Phase(10.0, 0.2, [0.001] * 5, [], [1.2, 1.25, 1.3]),
        "polled": Phase(10.0, 0.7, [0.004] * 99 + [0.5], [], [1.3, 1.375, 1.5]),
    }
    result = report_polls(phases) | {"api_mib": 100.0, "ready_seconds": 1.0}
    assert result["cpu_ms_a_poll"] == pytest.approx(5.0)
    assert result["api_cpu_share"] == pytest.approx(0.07)
    assert result["step_ratio_to_static"] == pytest.approx(1.1)
    assert result["latency_ms"] == pytest.approx({"p50": 4.0, "p99": 4.0})
    assert all(find_met(result).values())
    phases["static"].errors.append("status 500")
    phases["polled"].cpu_seconds = 1.01
    assert find_met(report_polls(phases) | {"api_mib": 151, "ready_seconds": 2.1}) == dict.fromkeys(
        ("errors", "api_cpu_share", "api_mib", "ready_seconds"), False
    )


def test_the_clients_are_found_by_the_script() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "scripts" / "service_load.py"), "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--clients" in done.stdout
