"""Weights & Biases gets every metric once, and its faults never reach training.

Where wandb is installed the real one writes to disk; how it breaks is shown by libraries of its name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from tunewright.errors import ConfigError
from tunewright.trackers import wandb as module
from tunewright.trackers.fanout import open_trackers, resolve_trackers
from tunewright.trackers.jsonl import read_events
from tunewright.trackers.protocol import TrackedRun
from tunewright.trackers.wandb import Sent

BLOCK = 32768
STUB = """
from types import SimpleNamespace

class Settings(SimpleNamespace):
    pass

def setup():
    return SimpleNamespace(settings=SimpleNamespace(mode={mode!r}))

def login(prompt):
    return {key!r}

def init(**options):
    {init}
"""

RUN = """
LOGGED = []

class Run:
    offline, url = True, None

    def define_metric(self, name, step_metric):
        pass

    def log(self, values):
        LOGGED.append(values)

    def finish(self, exit_code):
        pass
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a library of the name wandb before the installed one."""

    def put(init: str, *, mode: str = "online", key: bool = True) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "wandb.py").write_text(STUB.format(init=init, mode=mode, key=key))
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.delitem(sys.modules, "wandb", raising=False)

    yield put
    sys.modules.pop("wandb", None)


def _run(folder: Path) -> TrackedRun:
    return TrackedRun(folder, "tiny-lora-rows", 9, {"train": {"batch_size": 4}})


def _warnings(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder / "events.jsonl") if event["type"] == "warning"]


def _emit_steps(emit: Any, steps: range) -> None:
    for step in steps:
        emit("step", step, loss=10.0 / step, gradient_norm=None, learning_rate=1e-3, unknown=1)


def test_repeated_steps_are_sent_once_and_changed_ones_again():
    sent = Sent()
    step = {"type": "step", "step": 4, "loss": 1.0, "gradient_norm": None, "seq": 1}
    assert sent.new_values(step) == {"loss": 1.0, "global_step": 4}
    assert sent.new_values(step) == {}
    assert sent.new_values({"type": "evaluation", "step": 4, "valid_loss": 2.0, "seconds": 1}) == {
        "valid_loss": 2.0,
        "global_step": 4,
    }
    assert sent.new_values({"type": "checkpoint", "step": 9, "bytes": 1}) == {}
    assert sent.new_values({"type": "rolled_back", "step": 3}) == {}
    assert sent.new_values(step) == {"loss": 1.0, "global_step": 4}


def test_a_library_that_breaks_is_told_once_and_left_out(tmp_path: Path, library: Any):
    library("raise RuntimeError('server on fire')")
    with open_trackers(["wandb"], tmp_path / "events.jsonl", _run(tmp_path)) as emit:
        end = monotonic() + 20
        while not _warnings(tmp_path) and monotonic() < end:
            emit("checkpoint", 1)
            sleep(0.01)
        _emit_steps(emit, range(1, 4))
    assert _warnings(tmp_path) == ["tracker wandb failed and is left out: server on fire"]


def test_a_library_that_hangs_holds_nothing_up(tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch):
    library("import time; time.sleep(1000)")
    monkeypatch.setattr(module, "LONGEST_CLOSE", 0.1)
    start = monotonic()
    with open_trackers(["wandb"], tmp_path / "events.jsonl", _run(tmp_path)) as emit:
        _emit_steps(emit, range(1, 100))
    assert monotonic() - start < 60
    assert _warnings(tmp_path) == []


def test_nobody_is_asked_for_a_key(tmp_path: Path, library: Any):
    library("raise AssertionError('started')", key=False)
    with open_trackers(["wandb"], tmp_path / "events.jsonl", _run(tmp_path)) as emit:
        end = monotonic() + 20
        while not _warnings(tmp_path) and monotonic() < end:
            emit("checkpoint", 1)
            sleep(0.01)
    (warning,) = _warnings(tmp_path)
    assert "WANDB_MODE=offline" in warning


def test_auto_takes_what_is_installed(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library("pass")
    assert resolve_trackers("auto") == resolve_trackers(["console", "wandb"]) == ("console", "wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert resolve_trackers("auto") == resolve_trackers(("console",)) == ("console",)
    with pytest.raises(ConfigError, match=r"tunewright\[wandb\]"):
        resolve_trackers(["wandb"])


def test_a_folder_named_wandb_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_spec("wandb") is not None
    assert resolve_trackers("auto") == ("console",)


def test_naming_it_without_the_library_ends_before_anything_is_loaded(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "run.yaml").write_text("model: /tmp\ndata: {train: rows.jsonl}\ntrack: [wandb]\n")
    code = "import sys; sys.modules['wandb'] = None; from tunewright.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "error[config.no-tracker]: track: wandb is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_what_an_attempt_could_not_send_the_next_one_does(
    tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
):
    library("return Run()")
    stub = tmp_path / "site" / "wandb.py"
    stub.write_text(stub.read_text() + RUN)
    log = tmp_path / "events.jsonl"
    with open_trackers([], log, _run(tmp_path)) as emit:
        _emit_steps(emit, range(1, 5))
    for first, end in ((3, 7), (6, 9)):
        with open_trackers(["wandb"], log, _run(tmp_path)) as emit:
            _emit_steps(emit, range(first, end))
    assert _warnings(tmp_path) == []
    logged = import_module("wandb").LOGGED
    assert [values["global_step"] for values in logged] == list(range(1, 9))
    with open_trackers(["wandb"], log, _run(tmp_path)) as emit:
        emit("rolled_back", 6, from_step=8)
        _emit_steps(emit, range(7, 8))
    assert [values["global_step"] for values in logged[8:]] == [7]


def test_reports_of_several_steps_hold_those_of_earlier_attempts(
    tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
):
    library("return Run()")
    stub = tmp_path / "site" / "wandb.py"
    stub.write_text(stub.read_text() + RUN)
    run = replace(_run(tmp_path), report_every=4)
    with open_trackers(["wandb"], tmp_path / "events.jsonl", run) as emit:
        _emit_steps(emit, range(1, 4))
        emit("evaluation", 3, valid_loss=2.5, seconds=0.1)
    with open_trackers(["wandb"], tmp_path / "events.jsonl", run) as emit:
        emit("resumed", 2, from_step=2)
        _emit_steps(emit, range(3, 7))
        emit("run_finished", 6, outcome="done")
    logged = import_module("wandb").LOGGED
    assert [(values["global_step"], round(values.get("loss", 0), 3)) for values in logged] == [
        (3, 0),
        (4, round((10 + 5 + 10 / 3 + 2.5) / 4, 3)),
        (6, round((2 + 10 / 6) / 2, 3)),
    ]


def test_an_id_file_without_an_id_is_told(tmp_path: Path, library: Any):
    library("pass")
    (tmp_path / "wandb.json").write_text("{}")
    with open_trackers(["wandb"], tmp_path / "events.jsonl", _run(tmp_path)) as emit:
        emit("step", 1, loss=1.0)
    assert len(_warnings(tmp_path)) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_two_attempts_are_one_run_of_the_real_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in (("WANDB_MODE", "offline"), ("HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    log = tmp_path / "events.jsonl"
    with open_trackers(["wandb"], log, _run(tmp_path)) as emit:
        _emit_steps(emit, range(1, 5))
        emit("evaluation", 4, valid_loss=2.5, perplexity=12.2, seconds=0.1)
        emit("run_finished", 4, outcome="failed")
    with open_trackers(["wandb"], log, _run(tmp_path)) as emit:
        emit("resumed", 2, from_step=2)
        _emit_steps(emit, range(3, 7))
        emit("run_finished", 6, outcome="done")
    assert _warnings(tmp_path) == []
    first, second = (_records(path) for path in sorted(tmp_path.glob("wandb/offline-*/*.wandb")))
    identity = json.loads((tmp_path / "wandb.json").read_text())["id"]
    for records, code in ((first, 1), (second, 0)):
        (run,) = [record.run for record in records if record.HasField("run")]
        assert (run.run_id, run.display_name, run.project) == (identity, "tiny-lora-rows", "tunewright")
        assert {"train": {"batch_size": 4}}.items() <= _items(run.config.update).items()
        assert [record.exit.exit_code for record in records if record.HasField("exit")] == [code]
    rows = [_items(record.history.item) for record in (*first, *second) if record.HasField("history")]
    steps = [row for row in rows if "loss" in row]
    assert [row["global_step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[3]["loss"] == 2.5
    assert {"unknown", "gradient_norm"}.isdisjoint(steps[0])
    assert [(row["global_step"], row["perplexity"]) for row in rows if "valid_loss" in row] == [(4, 12.2)]


def _records(path: Path) -> list[Any]:
    """What wandb wrote: its messages in the blocks of LevelDB's log, after a header of 7 bytes."""
    kind = import_module("wandb.proto.wandb_internal_pb2").Record
    data, at, parts, records = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        size, place = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if place in (1, 4):
            records.append(kind.FromString(parts))
            parts = b""
    return records


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
