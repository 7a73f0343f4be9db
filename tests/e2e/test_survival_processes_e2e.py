"""Commands that meet a memory limit, a full disk, a hang or a preemption, as real processes."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from processes import child_environment, command_line, events, losses
from tunewright.errors import ExitCode

ROOT = Path(__file__).parents[2]


def write_run(folder: Path, **changes: dict[str, object]) -> Path:
    """300 rows of 60 to 200 tokens; a small adapter on the bundled model."""
    lines = [
        json.dumps({"instruction": f"Count {n}.", "input": "", "output": "one two three " * (3 + n % 10)})
        for n in range(300)
    ]
    (folder / "train.jsonl").write_text("\n".join(lines))
    sections = {
        "model": "builtin:tiny",
        "adapter": {"rank": 2, "targets": ["q_proj"]},
        "data": {"train": "train.jsonl", "eval": 0, "seq_len": 256},
        "train": {"max_steps": 12, "batch_size": 2},
        "checkpoint": {"every_steps": 2, "export_every": "never"},
    }
    for name, change in changes.items():
        sections[name] = {**sections.get(name, {}), **change}  # type: ignore[dict-item]
    path = folder / "run.yaml"
    path.write_text(json.dumps(sections))
    return path


def start(folder: Path, command: list[str], limit: int | None = None, **more: str) -> subprocess.Popen[str]:
    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return subprocess.Popen(
        command,
        cwd=folder,
        env=child_environment(folder, more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited,
    )


def finish(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """What it wrote to stderr, once it has ended by itself."""
    _, log = process.communicate(timeout=seconds)
    return log


def complete(folder: Path, *arguments: str | Path) -> None:
    """Run a command that must end well."""
    process = start(folder, command_line(arguments))
    log = finish(process)
    assert process.returncode == ExitCode.DONE, log


def wait_until(done: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "this never came"
        time.sleep(0.02)


def types(run: Path) -> list[str]:
    return [event["type"] for event in events(run)]


def test_a_hang_ends_with_its_own_code_and_the_stacks(tmp_path: Path) -> None:
    path = write_run(tmp_path, guard={"step_seconds": 1.0, "first_step_seconds": 60})
    script = [sys.executable, str(ROOT / "tests/faulty_engine.py"), "train", str(path), "--out", "run"]
    started = time.monotonic()
    process = start(tmp_path, script, FAULTS='{"6": "hang"}', PYTHONPATH=str(ROOT / "tests"))
    log = finish(process)
    assert process.returncode == ExitCode.STALLED, log
    assert time.monotonic() - started < 100
    assert "error[run.stalled]" in log
    assert "Traceback" not in log
    (stacks,) = (tmp_path / "run/logs").glob("stall-*.txt")
    assert "faulty_engine.py" in stacks.read_text()
    assert events(tmp_path / "run")[-1]["code"] == "run.stalled"
    # The lock went with the process, and what was saved goes on.
    complete(tmp_path, "train", "--resume", "run")
    assert list(losses(tmp_path / "run")) == list(range(1, 13))


def test_a_memory_limit_halves_the_rows_and_the_run_ends_well(tmp_path: Path) -> None:
    """A real limit: the allocator itself refuses."""
    train = {"batch_size": 64, "micro_batch_size": 64, "max_steps": 3, "precision": "fp32"}
    more = {"train": train, "data": {"seq_len": 256}}
    path = write_run(tmp_path, **more)
    probe = start(tmp_path, command_line(["train", path, "--out", "probe"]))
    before, peak = _address_space(probe, tmp_path / "probe")
    log = finish(probe)
    assert probe.returncode == ExitCode.DONE, log
    assert peak - before > 2**29, "the steps need too little for this test to say anything"
    limit = before + (peak - before) // 2
    process = start(tmp_path, command_line(["train", path, "--out", "run"]), limit=limit)
    log = finish(process)
    assert process.returncode == ExitCode.DONE, log
    amended = [event for event in events(tmp_path / "run") if event["type"] == "amended"]
    assert amended, log
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "probe"), rel=1e-4)


def _address_space(process: subprocess.Popen[str], run: Path) -> tuple[int, int]:
    """Bytes of address space when training starts, and at most."""
    before = peak = 0
    while process.poll() is None:
        size = _status_bytes(process.pid, "VmPeak")
        peak = max(peak, size)
        if "run_started" not in types(run):
            before = max(before, size)
        time.sleep(0.02)
    return before, peak


def _status_bytes(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def test_sigterm_in_a_long_evaluation_saves_at_once_and_evaluates_later(tmp_path: Path) -> None:
    path = write_run(
        tmp_path,
        data={"eval": 0.95},
        train={"max_steps": 6, "micro_batch_size": 1},
        evaluate={"every_steps": 3},
    )
    complete(tmp_path, "train", path, "--out", "whole")
    process = start(tmp_path, command_line(["train", path, "--out", "run"]))
    wait_until(lambda: max(losses(tmp_path / "run"), default=0) >= 3, process)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    log = finish(process, 60)
    assert process.returncode == ExitCode.PREEMPTED, log
    assert time.monotonic() - asked < 30
    complete(tmp_path, "train", "--resume", "run")

    def evaluations(run: Path) -> dict[int, float]:
        return {e["step"]: e["valid_loss"] for e in events(run) if e["type"] == "evaluation"}

    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_only(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        path = write_run(tmp_path, train={"max_steps": 400}, checkpoint={"every_steps": 5, "keep": 2})
        process = start(tmp_path, command_line(["train", path, "--out", str(disk / "run")]))
        wait_until(lambda: "checkpoint" in types(disk / "run"), process)
        ballast = disk / "ballast"
        _fill(ballast)
        before = max(losses(disk / "run"), default=0)
        time.sleep(1.5)
        still_running = process.poll() is None
        ballast.unlink()
        log = finish(process)
        assert still_running, log
        assert process.returncode == ExitCode.DONE, log
        assert before < 400
        warnings = [event["message"] for event in events(disk / "run") if event["type"] == "warning"]
        assert any("the disk is full" in message for message in warnings), warnings
        assert list(losses(disk / "run")) == list(range(1, 401))
        numbers = [event["seq"] for event in events(disk / "run")]
        assert numbers == list(range(1, len(numbers) + 1))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
