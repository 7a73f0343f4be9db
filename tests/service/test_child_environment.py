"""What server and worker start finds no key and no database in its environment: it reads what users send."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from service_server import descendants, wait_until
from tunewright.service.child_environment import SECRETS
from tunewright.service.children import WorkerCommand
from tunewright.service.inference.process import ModelProcess
from tunewright.service.inference.settings import InferenceSettings
from tunewright.service.worker.child import LeashedChild


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("HF_TOKEN", "for models")


def environment_of(pid: int) -> dict[str, str]:
    path = Path(f"/proc/{pid}/environ")
    # A process that was just started shows none for a moment.
    entries = wait_until(path.read_text, "the process has an environment").split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def test_a_trainer_and_a_check_have_none(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    child = LeashedChild(["jobs", "watch", "none"], folder=tmp_path, lease_seconds=600)
    try:
        [leash] = set(descendants(os.getpid())) - before
        found = environment_of(leash)
    finally:
        child.close()
    assert found["HF_TOKEN"] == "for models"
    assert not found.keys() & set(SECRETS)


def test_a_model_server_has_none() -> None:
    process = ModelProcess(InferenceSettings("cpu"))
    loop = asyncio.new_event_loop()
    try:
        process.ask({"do": "ping", "id": "1"}, loop, lambda event: None)
        assert process.pid is not None
        found = environment_of(process.pid)
    finally:
        process.stop()
        loop.close()
    assert found["HF_TOKEN"] == "for models"
    assert not found.keys() & set(SECRETS)


def test_a_local_worker_has_its_own_key_only(tmp_path: Path) -> None:
    worker = WorkerCommand("http://127.0.0.1:9", "its own", tmp_path / "work").start()
    try:
        found = environment_of(worker.pid)
    finally:
        worker.kill()
        worker.communicate()
    assert {name: found.get(name) for name in SECRETS} == {
        "TUNEWRIGHT_KEY": "its own",
        "TUNEWRIGHT_DATABASE": None,
        "OPENAI_API_KEY": None,
    }
