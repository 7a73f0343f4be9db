from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from families import make_family
from tunewright.cli.main import run
from tunewright.data import tokenised_source
from tunewright.errors import ExitCode

ROWS: tuple[dict[str, object], ...] = (
    {"messages": [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "One é."}]},
    {"messages": [{"role": "user", "content": "two?"}]},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_family("llama", tmp_path_factory.mktemp("model")))


def write(folder: Path, rows: Sequence[dict[str, object]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_check_reports_good_data(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check", write(tmp_path, ROWS[:1]), "--model", model]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "rows kept" in out
    assert "up to" in out
    assert "error" not in out.replace("rows with errors", "")


def test_check_reports_everything_before_it_fails(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "check", write(tmp_path, ROWS), "--model", model]) == ExitCode.DATA_ERROR
    out = capsys.readouterr().out
    assert "rows read" in out
    assert "error: " in out
    assert "rows.jsonl: 2" in out


def test_check_prints_json_alone_on_stdout(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "check", write(tmp_path, ROWS), "--model", model, "--json"]
    assert run(command) == ExitCode.DATA_ERROR
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["rows_read"], report["rows_bad"]) == (False, 2, 1)


def test_check_says_once_that_kept_tokens_were_damaged(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokenised_source, "CACHED_ABOVE_BYTES", 0)
    command = ["data", "check", write(tmp_path, ROWS[:1]), "--model", model, "--json"]
    assert run(command) == ExitCode.DONE
    good = capsys.readouterr()
    (kept,) = (tmp_path / "cache" / "data").glob("*.tokens")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert run(command) == ExitCode.DONE
    again = capsys.readouterr()
    assert (good.err, again.out) == ("", good.out)
    assert again.err.count("is damaged") == again.err.count("\n") == 1
    assert run(command) == ExitCode.DONE
    assert capsys.readouterr().err == ""


def test_check_takes_length_rules(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, ROWS[:1])
    command = ["data", "check", file, "--model", model, "--seq-len", "8", "--overlong"]
    assert run([*command, "error"]) == ExitCode.DATA_ERROR
    assert "data.seq_len = 8" in capsys.readouterr().out
    assert run([*command, "split", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["rows_split"] == 1
    assert run([*command, "drop"]) == ExitCode.DATA_ERROR
    assert "no row is left" in capsys.readouterr().err


def test_columns_are_mapped(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [{"question": "one?", "answer": "One."}])
    names = ["--column", "instruction=question", "--column", "output=answer"]
    assert run(["data", "check", file, "--model", model, *names]) == ExitCode.DONE
    assert run(["data", "show", file, "--model", model, *names]) == ExitCode.DONE
    assert "⟦One.<|im_end|>" in capsys.readouterr().out
    assert run(["data", "check", file, "--model", model, "--column", "question"]) == ExitCode.USAGE
    assert "FIELD=NAME" in capsys.readouterr().err


def test_show_marks_trained_tokens_without_colour(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "show", write(tmp_path, ROWS[:1]), "--model", model, "--row", "1"]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "<|im_start|>assistant\n⟦One é.<|im_end|>\n⟧" in out
    assert "\x1b" not in out
    assert run(["data", "show", write(tmp_path, ROWS[:1]), "--model", model, "--ids"]) == ExitCode.DONE
    assert "⟦1⟧" in capsys.readouterr().out


def test_show_names_a_bad_and_a_missing_row(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, ROWS)
    assert run(["data", "show", file, "--model", model, "--row", "2"]) == ExitCode.DATA_ERROR
    assert "rows.jsonl:2" in capsys.readouterr().err
    assert run(["data", "show", file, "--model", model, "--row", "3"]) == ExitCode.DATA_ERROR
    assert "there is no such row" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "show"])
def test_neither_command_loads_torch(tmp_path: Path, model: str, command: str) -> None:
    arguments = ["data", command, write(tmp_path, ROWS[:1]), "--model", model]
    code = f"""
import sys
from tunewright.cli.main import run
assert run({arguments!r}) == 0
heavy = ("torch", "mlx", "transformers.models.auto")
sys.exit(", ".join(name for name in sys.modules if name.startswith(heavy)) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_text_of_files_is_no_markup_and_no_emoji(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[bold]:100:"
    folder.mkdir()
    path = write(folder, (ROWS[0], *[ROWS[1]] * 100))
    run(["data", "check", path, "--model", model])
    out = capsys.readouterr().out
    assert f"{path}:2: " in out
    run(["data", "show", path, "--model", model])
    assert path in capsys.readouterr().out


def test_check_needs_the_tokenizer_of_a_model_only(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((Path(model) / name).read_bytes())
    path = write(tmp_path, ROWS[:1])
    assert run(["data", "check", path, "--model", str(bare), "--json"]) == ExitCode.DONE
    told = capsys.readouterr().out
    assert run(["data", "check", path, "--model", model, "--json"]) == ExitCode.DONE
    assert capsys.readouterr().out == told
    (bare / "tokenizer.json").unlink()
    assert run(["data", "check", path, "--model", str(bare)]) == ExitCode.USER_ERROR
