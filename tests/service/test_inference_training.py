"""Chats while a job trains on the accelerator that they would need. What a worker says of its machine is the
only thing made up here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, InternalServerError, OpenAI

from service_server import RunningServer, chat_rows, serve_here, upload
from service_worker import HandWorker, worker_by_hand
from tunewright.service.ids import WORKER, new_id
from tunewright.service.inference.process import ModelProcess
from tunewright.service.inference.settings import InferenceSettings, Policy
from tunewright.service.schemas.lease import Capabilities, Claim, Finish
from tunewright.service.settings import ServeSettings

TINY = "builtin:tiny"
GPU = {"cuda": True}


@contextmanager
def serving(folder: Path, policy: Policy) -> Iterator[tuple[RunningServer, OpenAI, ModelProcess]]:
    """A server whose housekeeping does not come round in a test."""
    inference = InferenceSettings(policy=policy, wait_seconds=100)
    settings = ServeSettings(folder / "home", inference=inference, lease_seconds=600)
    with serve_here(settings) as server, server.client(max_retries=0) as client:
        yield server, client, model_process(server)


@pytest.fixture(scope="module")
def waiting(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningServer, OpenAI, ModelProcess]]:
    """A server that lets training go first."""
    with serving(tmp_path_factory.mktemp("waiting"), "wait") as found:
        yield found


@contextmanager
def machine(
    server: RunningServer, folder: Path, capabilities: dict[str, Any], name: str | None = None
) -> Iterator[HandWorker]:
    """A worker that says these things of itself, on this machine unless it is named otherwise."""
    claim = Claim(
        worker=new_id(WORKER), name=name or socket.gethostname(), capabilities=Capabilities(**capabilities)
    )
    with worker_by_hand(server, folder, claim) as worker:
        yield worker


def ask(client: OpenAI) -> None:
    client.chat.completions.create(model=TINY, messages=[{"role": "user", "content": "Hi"}], max_tokens=2)


def new_job(client: OpenAI) -> str:
    return client.fine_tuning.jobs.create(model=TINY, training_file=upload(client, chat_rows(40)).id).id


def model_process(server: RunningServer) -> ModelProcess:
    app = server.app
    while not hasattr(app, "state"):
        app = app.app
    return app.state.model_server.process


def runs(pid: int | None) -> bool:
    return pid is not None and Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("capabilities", "name"), [({"cuda": False}, None), (GPU, "another machine")], ids=["no GPU", "elsewhere"]
)
def test_training_that_needs_nothing_of_ours_disturbs_nobody(
    waiting: tuple[RunningServer, OpenAI, ModelProcess],
    tmp_path: Path,
    capabilities: dict[str, Any],
    name: str | None,
) -> None:
    server, client, process = waiting
    ask(client)
    loaded = process.pid
    with machine(server, tmp_path, capabilities, name) as worker:
        lease = worker.begin(new_job(client))
        ask(client)
        assert process.pid == loaded
        worker.succeed(lease)


def test_the_accelerator_is_free_when_a_worker_hears_of_its_job(
    waiting: tuple[RunningServer, OpenAI, ModelProcess], tmp_path: Path
) -> None:
    server, client, process = waiting
    with machine(server, tmp_path, GPU) as worker:
        job = new_job(client)
        messages: Any = [{"role": "user", "content": "Hi"}]
        endless: Any = {"logit_bias": {"257": -100}, "temperature": 1.5, "max_tokens": 3000, "stream": True}
        stream = iter(client.chat.completions.create(model=TINY, messages=messages, **endless))
        next(stream)
        loaded = process.pid
        worker.validate(job)
        assert runs(loaded), "looking at files needs no accelerator"
        lease = worker.claim_job(job)
        assert not runs(loaded)
        with pytest.raises(APIError, match="ask again") as told:
            list(stream)
        assert told.value.code == "busy"
        with pytest.raises(InternalServerError, match="--inference cpu") as refused:
            ask(client)
        assert (refused.value.status_code, refused.value.code) == (503, "busy")
        assert int(refused.value.response.headers["retry-after"]) >= 10
        assert process.pid is None
        worker.succeed(lease)
        ask(client)
        assert runs(process.pid)


def test_a_cancelled_job_has_the_accelerator_until_its_worker_gives_it_back(
    waiting: tuple[RunningServer, OpenAI, ModelProcess], tmp_path: Path
) -> None:
    server, client, _ = waiting
    with machine(server, tmp_path, GPU) as worker:
        job = new_job(client)
        lease = worker.begin(job)
        client.fine_tuning.jobs.cancel(job)
        with pytest.raises(InternalServerError, match="--inference cpu"):
            ask(client)
        worker.client.finish(lease, Finish(outcome="stopped", exit_code=137))
        ask(client)


def test_on_the_cpu_chats_go_on_beside_training(tmp_path: Path) -> None:
    with serving(tmp_path, "cpu") as (server, client, process), machine(server, tmp_path, GPU) as worker:
        ask(client)
        loaded = process.pid
        command = Path(f"/proc/{loaded}/cmdline").read_bytes().split(b"\0")
        assert b"cpu" in command, "it may not take the accelerator by itself"
        worker.begin(new_job(client))
        ask(client)
        assert process.pid == loaded
