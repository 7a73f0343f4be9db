"""200 clients watch a job that trains on the same cores: what that costs the API and what it costs training.

`make service-load` starts a server with its worker, a job, and clients that retrieve it and list its events
in turn, every 5 seconds each, with the headers of OpenAI's client. In turns the same clients ask an endpoint
that answers from memory, so that what they themselves cost training is taken out. Writes
benchmarks/service_load.json; exit code 1 when a bar is missed. Reads /proc, so it needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import httpx2  # noqa: E402
from origin import describe_origin  # noqa: E402

from polling_clients import Load, Watched  # noqa: E402
from polling_report import BARS, Phase, find_met, report_polls  # noqa: E402
from service_server import (  # noqa: E402
    RunningServer,
    chat_rows,
    child,
    serve_as_process,
    server_pid,
    upload,
    wait_for_status,
)
from tunewright.trackers.jsonl import read_steps  # noqa: E402

CLIENTS = ROOT / "tests" / "polling_clients.py"
STARTS = 5
PROJECT = "load"
TICKS = os.sysconf("SC_CLK_TCK")
# Long enough to outlast the measurement; it is cancelled at the end.
JOB: dict[str, Any] = {
    "hyperparameters": {"n_epochs": 50, "batch_size": 64, "lora_r": 8, "seq_len": 128},
    "x_config": {"train": {"max_steps": 10**6}},
}


def main() -> int:
    """Measure, print and write the result."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="tunewright-load-") as name:
        starts = [measure_start(Path(name) / f"start-{number}") for number in range(STARTS)]
        phases, mib = measure_polls(Path(name) / "service", options)
    result = {
        "clients": options.clients, "every_seconds": options.every, "threads": options.threads,
        "kept_connections": options.keeps, "turns": options.turns, **report_polls(phases),
        "api_mib": mib, "starts": starts,
        "ready_seconds": statistics.median(start["seconds"] for start in starts),
        "bars": BARS, "origin": describe_origin("cpu"),
    }  # fmt: skip
    result["met"] = find_met(result)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0 if all(result["met"].values()) else 1


def measure_start(folder: Path) -> dict[str, float]:
    """Seconds from the start of `serve` in an empty folder until it says that it is well, and CPU seconds of
    its process until then."""
    folder.mkdir()
    port = _free_port()
    started = time.monotonic()
    with child(folder, "serve", "--home", folder / "home", "--port", str(port), log="serve.log") as process:
        while not _is_well(port):
            assert process.poll() is None, (folder / "serve.log").read_text(encoding="utf-8")
            time.sleep(0.01)
        return {"seconds": time.monotonic() - started, "cpu_seconds": cpu_seconds(process.pid)}


def measure_polls(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Phase], float]:
    """What happens while nobody polls, while the clients ask the static endpoint and while they ask the API;
    and the largest resident memory of the API process in MiB."""
    folder.mkdir()
    phases = {kind: Phase() for kind in ("quiet", "static", "polled")}
    with serve_as_process(folder, OMP_NUM_THREADS=str(options.threads)) as server:
        pid, job = server_pid(server), start_job(server)
        [events] = server.service.settings.home.glob(f"work/{job}/**/events.jsonl")
        requests, bodies = record_polls(server, job)
        keys = [server.key(project=PROJECT) for _ in range(options.clients)]
        clients = [[request.replace("KEY", key) for request in requests] for key in keys]
        port = urlsplit(server.url).port or 0
        with static_endpoint(bodies) as static_port:
            for turn in range(options.turns + 1):
                for kind, phase in phases.items():
                    into = phase if turn else Phase()
                    seconds = options.seconds if turn else options.every
                    load = Load("127.0.0.1", static_port if kind == "static" else port, clients,
                                options.every, seconds, options.keeps)  # fmt: skip
                    with watched(into, pid, events):
                        if kind == "quiet":
                            time.sleep(seconds)
                        else:
                            told = poll(load)
                            into.latencies += told.seconds
                            into.errors += told.errors
        mib = peak_mib(pid)
        with server.client(project=PROJECT) as client:
            client.fine_tuning.jobs.cancel(job)
    return phases, mib


def start_job(server: RunningServer) -> str:
    """Id of a job that trains and has told of some steps."""
    with server.client(project=PROJECT) as client:
        file = upload(client, chat_rows(1024))
        job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file.id, extra_body=JOB).id
        wait_for_status(client, job, "running")
        # Their answers are of the size that they have for most of a job.
        for _ in range(600):
            if len(client.fine_tuning.jobs.list_events(job).data) == 20:
                break
            time.sleep(1.0)
    return job


def record_polls(server: RunningServer, job: str) -> tuple[list[str], dict[str, str]]:
    """What OpenAI's client sends for the two calls, with KEY in place of the key, and what it is answered, by
    the end of the path."""
    requests: list[str] = []
    with server.client(project=PROJECT) as client:
        calls = client.fine_tuning.jobs.with_raw_response
        answers = [calls.retrieve(job), calls.list_events(job)]
    for answer in answers:
        asked = answer.http_request
        headers = {**asked.headers, "authorization": "Bearer KEY"}
        lines = [f"{asked.method} {asked.url.raw_path.decode()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        requests.append("\r\n".join(lines) + "\r\n\r\n")
    return requests, {"": answers[0].text, "/events": answers[1].text}


@contextmanager
def static_endpoint(bodies: dict[str, str]) -> Generator[int]:
    """The port of an endpoint in a process of its own that answers from memory."""
    command = [sys.executable, str(CLIENTS), "static"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(bodies) + "\n")
        process.stdin.flush()
        yield int(process.stdout.readline())
        process.stdin.close()


def poll(load: Load) -> Watched:
    """Let the clients poll, in a process of their own."""
    command = [sys.executable, str(CLIENTS), "poll"]
    text = json.dumps(asdict(load))
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return Watched(**json.loads(done.stdout))


@contextmanager
def watched(phase: Phase, pid: int, events: Path) -> Generator[None]:
    """Add what the API process and the trainer do meanwhile."""
    started, cpu, clock = time.time(), cpu_seconds(pid), time.monotonic()
    yield
    phase.wall_seconds += time.monotonic() - clock
    phase.cpu_seconds += cpu_seconds(pid) - cpu
    ended = time.time()
    for event in read_steps(events).values():
        # Steps that lie wholly within.
        told = datetime.fromisoformat(event["time"]).timestamp()
        if started + event["step_seconds"] < told < ended:
            phase.step_seconds.append(event["step_seconds"])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid: int) -> float:
    """Largest resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


def _is_well(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Poll a service while a job trains, and measure both.")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two polls of a client")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the three in a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--new-connections", dest="keeps", action="store_false", help="one for each poll")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the trainer")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "service_load.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
