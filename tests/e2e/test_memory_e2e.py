"""`tunewright train` where a control group leaves little memory: what fits trains, the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunewright import host_memory
from tunewright.cli.main import run
from tunewright.errors import ExitCode
from tunewright.run import build

MIB = 2**20
ROW = {
    "messages": [
        {"role": "user", "content": "how far is it to the house"},
        {"role": "assistant", "content": "two miles"},
    ]
}


@pytest.fixture
def limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows of some 50 tokens, and limit(bytes) as a control group says it. 60 % of it may be planned with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host_memory, "GROUPS", tmp_path)
    monkeypatch.setattr(host_memory, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(ROW)}\n" * 100)
    (tmp_path / "run.yaml").write_text(
        "model: builtin:tiny\ndevice: cpu\nengine: torch\n"
        "data: {train: rows.jsonl, seq_len: 4096, eval: 0}\n"
        "train: {batch_size: 2, max_steps: 2, activation_checkpointing: false}\n"
    )
    return lambda size: (tmp_path / "memory.max").write_text(str(size))


def test_short_rows_train_where_full_rows_would_not_fit(limit, tmp_path: Path, capsys) -> None:
    limit(300 * MIB)
    assert run(["train", "run.yaml", "--out", "run"]) == ExitCode.DONE, capsys.readouterr().err
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    assert plan["memory_usable_bytes"] == int(0.6 * 300 * MIB)
    assert plan["memory_peak_bytes"] < plan["memory_usable_bytes"]


@pytest.mark.parametrize("how", ["many rows in a pass", "little memory"])
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    how: str, limit, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(300 * MIB if how == "many rows in a pass" else 64 * MIB)
    more = ["--set", "train.batch_size=90"] if how == "many rows in a pass" else []
    monkeypatch.setattr(build, "build_engine", lambda *_: pytest.fail("an engine was built"))
    assert run(["train", "run.yaml", "--out", "run", *more]) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert "error[config.memory]" in error
    assert "hint: " in error
    assert "Traceback" not in error
    assert not (tmp_path / "run/config.yaml").exists()


def test_rows_that_are_read_when_their_turn_comes_are_planned_as_full(limit, capsys) -> None:
    limit(300 * MIB)
    indexed = ["--set", "data.loading=indexed"]
    assert run(["train", "run.yaml", "--out", "run", *indexed]) == ExitCode.USER_ERROR
    assert "error[config.memory]" in capsys.readouterr().err
