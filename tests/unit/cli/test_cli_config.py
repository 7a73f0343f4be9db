"""`config check` and `config show` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tunewright.cli.main import run

GOOD = "preset: laptop\nmodel: builtin:tiny\ndata: {train: rows.jsonl}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(GOOD)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path


def test_check_says_what_comes_next(folder, capsys):
    assert run(["config", "check", "run.yaml", "--set", "run.name=a b"]) == 1
    capsys.readouterr()
    assert run(["config", "check", "run.yaml", "--set", "train.epochs=1", "--set", "track=[]"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("ok: run.yaml: ")
    assert out[1] == "next: tunewright train run.yaml --set train.epochs=1 --set 'track=[]'"


def test_check_names_the_program_as_it_was_called(folder, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", [str(folder / ".venv/bin/tunewright")])
    assert run(["config", "check", "run.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "next: .venv/bin/tunewright train run.yaml"


def test_check_prints_every_fault_and_exits_1(folder, capsys):
    (folder / "run.yaml").write_text(GOOD + "adapter: {rnk: 8}\ntrain: {epochs: 0}\n")
    assert run(["config", "check", "run.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error[config.unknown-key]: adapter.rnk (run.yaml:4): not a setting; did you mean adapter.rank?",
        "error[config.wrong-value]: train.epochs (run.yaml:5): out of range, got 0, "
        "expected a number above 0",
    ]


def test_check_finds_missing_data(folder, capsys):
    (folder / "rows.jsonl").unlink()
    assert run(["config", "check", "run.yaml"]) == 1
    assert "data.train.0.path (run.yaml:3): no such file or folder, got" in capsys.readouterr().err


def test_show_prints_each_value_with_its_origin(folder, capsys):
    assert run(["config", "show", "run.yaml", "--set", "train.seed=7"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["train.seed"] == ["7", "--set"]
    assert rows["model.name"] == ["builtin:tiny", "run.yaml:2"]
    assert rows["adapter.rank"] == ["8", "preset", "laptop"]
    assert rows["adapter.dropout"] == ["0", "default"]


def test_show_is_aligned(folder, capsys):
    assert run(["config", "show", "run.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = {
        line.index(value) for line, value in zip(lines, (line.split()[1] for line in lines), strict=True)
    }
    assert len(starts) == 1


def test_show_json_loads_as_the_same_configuration(folder, capsys):
    from tunewright.config.load import config_hash, load_config

    assert run(["config", "show", "run.yaml", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    again = load_config(None, text=json.dumps(document["config"])).config
    assert document["hash"] == config_hash(again)
    assert document["origins"]["data.train.0.path"] == "run.yaml:3"


@pytest.mark.parametrize("command", ["check", "show"])
def test_no_heavy_library_is_loaded(folder, command):
    code = (
        "import sys; from tunewright.cli.main import run; "
        f"assert run(['config', {command!r}, 'run.yaml']) == 0; "
        "print({'torch', 'transformers', 'numpy', 'mlx', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "set()"
