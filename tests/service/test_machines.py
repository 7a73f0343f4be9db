"""Which worker is given which job: by the engine and device that its state goes on with, and by memory."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import OpenAI

from service_server import RunningServer, chat_rows, upload
from service_worker import HandWorker, worker_by_hand
from tunewright.errors import ExitCode
from tunewright.service.ids import WORKER, new_id
from tunewright.service.schemas.lease import Capabilities, Claim, Finish
from tunewright.service.worker.machine import find_capabilities, find_places

GIB = 2**30
LAPTOP = {"torch/cpu": 8 * GIB}
GPU_BOX = {"torch/cuda": 80 * GIB, "torch/cpu": 64 * GIB}
MAC = {"mlx/metal": 32 * GIB, "torch/mps": 32 * GIB, "torch/cpu": 32 * GIB, "mlx/cpu": 32 * GIB}
TOO_LARGE = Finish(
    outcome="failed", exit_code=ExitCode.USER_ERROR, code="config.memory", message="The run does not fit"
)
NO_MEMORY = Finish(
    outcome="failed", exit_code=ExitCode.OUT_OF_MEMORY, code="engine.out-of-memory", message="No memory left"
)


@contextmanager
def worker(server: RunningServer, folder: Path, places: dict[str, int]) -> Generator[HandWorker]:
    claim = Claim(worker=new_id(WORKER), name="by hand", capabilities=Capabilities(places=places))
    with worker_by_hand(server, folder, claim) as found:
        yield found


@pytest.fixture
def client(any_server: RunningServer, project: str) -> Generator[OpenAI]:
    with any_server.client(project=project, max_retries=0) as found:
        yield found


def new_job(client: OpenAI) -> str:
    file = upload(client, chat_rows(10))
    return client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file.id).id


def last_message(client: OpenAI, job_id: str) -> str:
    return client.fine_tuning.jobs.list_events(job_id, limit=1).data[0].message


def claims(given: HandWorker, job_id: str, seconds: float = 5.0) -> bool:
    """Whether the worker gets this job soon; jobs of other tests do not count."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        lease = given.claim()
        if lease is None:
            return False
        if lease.job == job_id:
            return True
        given.client.finish(lease, Finish(outcome="failed", code="in.the-way", message="", exit_code=2))
    return False


def test_a_saved_state_goes_on_where_it_was_saved(
    any_server: RunningServer, client: OpenAI, tmp_path: Path
) -> None:
    job = new_job(client)
    with worker(any_server, tmp_path, GPU_BOX) as first:
        lease = first.begin(job)
        first.save(lease, "state", 2, place="torch/cuda")
        first.client.finish(lease, Finish(outcome="stopped", exit_code=ExitCode.PREEMPTED, step=2))
    assert last_message(client, job).endswith("waits for another one that trains with torch on cuda")
    with worker(any_server, tmp_path, LAPTOP) as laptop, worker(any_server, tmp_path, MAC) as mac:
        assert not claims(laptop, job)
        assert not claims(mac, job)
    with worker(any_server, tmp_path, GPU_BOX) as second:
        lease = second.claim_job(job)
        assert lease.state_step == 2
        second.succeed(lease)


@pytest.mark.parametrize("fault", [TOO_LARGE, NO_MEMORY], ids=["planned", "met"])
def test_a_job_that_is_too_large_goes_to_a_larger_machine(
    any_server: RunningServer, client: OpenAI, tmp_path: Path, fault: Finish
) -> None:
    job = new_job(client)
    with worker(any_server, tmp_path, LAPTOP) as laptop, worker(any_server, tmp_path, GPU_BOX) as box:
        lease = laptop.begin(job)
        assert not claims(box, job)
        laptop.client.finish(lease, fault)
        assert last_message(client, job) == f"{fault.message}: it waits for a worker with more memory"
        assert client.fine_tuning.jobs.retrieve(job).status == "queued"
        assert not claims(laptop, job)
        box.succeed(box.claim_job(job))
    assert client.fine_tuning.jobs.retrieve(job).status == "succeeded"


def test_without_a_larger_machine_it_fails_with_its_reason(
    any_server: RunningServer, client: OpenAI, project: str, tmp_path: Path
) -> None:
    job = new_job(client)
    # Larger than any machine of the other tests, which count as there for a while.
    with worker(any_server, tmp_path, {"torch/cuda": 999 * GIB}) as largest:
        largest.client.finish(largest.begin(job), TOO_LARGE)
    found = client.fine_tuning.jobs.retrieve(job)
    assert found.status == "failed"
    assert found.error is not None
    assert (found.error.code, found.error.message) == ("config.memory", "The run does not fit")


def test_this_machine_says_what_it_has() -> None:
    found = find_capabilities()
    assert found.places["torch/cpu"] == found.memory_bytes > GIB
    assert set(found.places) >= {f"{engine}/cpu" for engine in found.engines}


def test_a_gpu_comes_first_with_its_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 81559\necho 143771\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    host = find_capabilities().memory_bytes
    places = find_places(cuda=True)
    assert next(iter(places.items())) == ("torch/cuda", 143771 * 2**20)
    assert places["torch/cpu"] == host
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert find_places(cuda=True)["torch/cuda"] == host, (
        "a driver that says nothing of it is no reason to fail"
    )
