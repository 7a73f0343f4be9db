"""How a worker starts: what it says, and when it refuses to."""

from __future__ import annotations

from pathlib import Path

import pytest

from service_server import RunningServer, child, descendants, server_pid, wait_until
from tunewright.errors import ServiceError
from tunewright.service.worker import loop, machine


def test_a_machine_without_an_engine_takes_no_jobs(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.check_engine()
    monkeypatch.setattr(machine, "find_spec", lambda _name: None)
    with pytest.raises(ServiceError, match="neither torch nor mlx") as caught:
        loop.run_worker(loop.WorkerSettings(server.url, server.key("worker"), tmp_path, "bare"))
    assert caught.value.code == "service.no-engine"


def test_a_worker_says_what_it_is_for_and_ends_in_order(server: RunningServer, tmp_path: Path) -> None:
    arguments = ("worker", "--server", server.url, "--folder", tmp_path / "work")
    log = tmp_path / "worker.log"
    with child(tmp_path, *arguments, log=log.name, TUNEWRIGHT_KEY=server.key("worker")) as process:
        wait_until(lambda: "Ctrl-C" in log.read_text(encoding="utf-8"), "the worker says how to end it")
        wait_until(lambda: (tmp_path / "work").is_dir(), "the worker waits for jobs")
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert f"takes jobs from {server.url}" in log.read_text(encoding="utf-8")


def test_serve_and_its_worker_stay_small_and_load_no_model_library(
    service_process: RunningServer, trained_job: str
) -> None:
    assert trained_job
    serve = server_pid(service_process)
    workers = [pid for pid in descendants(serve) if b"--tied" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 1
    for pid in (serve, *workers):
        # The maps of a process name every library that it loaded.
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "python" in maps
        assert not [name for name in ("torch", "mlx", "tokenizers", "safetensors") if f"/{name}/" in maps]
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak < 150 * 1024
