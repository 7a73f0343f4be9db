"""Rows that `train` changes or leaves out are told, and bad ones are skipped, however the data is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from processes import events, losses
from tunewright.config.load import load_config
from tunewright.errors import DataError, ExitCode
from tunewright.run.build import RunResult, run_training

READINGS = ("memory", "indexed", "pipe")


def row(number: int, output: str = "") -> str:
    return json.dumps({"instruction": f"Say {number}.", "output": output or f"{number} it is."}) + "\n"


# One of each kind: broken JSON, not UTF-8, no such field, a field that is wrong, above seq_len.
BAD = {
    3: b'{"instruction": "x", \n',
    11: b'{"instruction": "\xff", "output": "y"}\n',
    20: b'{"instruction": "no answer"}\n',
    33: b'{"instruction": "x", "output": 7}\n',
    41: row(41, "word " * 300).encode(),
}
LINES = [BAD.get(number, row(number).encode()) for number in range(60)]
PLACES = [number + 1 for number in BAD]


def train(
    folder: Path, lines: Sequence[bytes], reading: str, *changes: str, resume: str | None = None
) -> tuple[RunResult, list[str]]:
    """A run in folder/run over `lines`, and what it said."""
    settings = {
        "model": "builtin:tiny",
        "adapter": {"rank": 2, "targets": ["q_proj", "v_proj"], "dropout": 0.1},
        "data": {"eval": 0, "seq_len": 64, "window": 25},
        "train": {"max_steps": 12, "batch_size": 4, "learning_rate": 1e-3},
        "checkpoint": {"every_steps": 4, "export_every": "never", "keep": 9},
    }
    data: dict[str, Any] = settings["data"]
    path = folder / "rows.jsonl"
    if reading == "pipe":
        path = folder / f"rows-{len(list(folder.glob('*.pipe')))}.pipe"
        os.mkfifo(path)
        Thread(target=path.write_bytes, args=(b"".join(lines),), daemon=True).start()
    else:
        path.write_bytes(b"".join(lines))
        data["loading"] = reading
    data["train"] = path.name
    (folder / "run.yaml").write_text(json.dumps(settings))
    said: list[str] = []
    loaded = load_config(folder / "run.yaml", overrides=changes)
    return run_training(loaded, out=folder / "run", resume=resume, say=said.append), said


def data_events(folder: Path) -> list[dict[str, Any]]:
    return [event for event in events(folder / "run") if event["type"] == "data"]


def lines_found(report: dict[str, Any]) -> list[int]:
    return sorted(int(place.rpartition(":")[2]) for found in report["findings"] for place in found["where"])


@pytest.mark.parametrize("reading", READINGS)
def test_bad_rows_are_skipped_counted_and_skipped_again_by_a_resume(tmp_path: Path, reading: str) -> None:
    skip = ("data.bad_rows=skip", "data.max_bad_rows=5", "train.max_steps=15")
    result, said = train(tmp_path, LINES, reading, *skip)
    assert result.exit_code == ExitCode.DONE
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert (report["rows_read"], report["rows_bad"], report["ok"]) == (60, len(BAD), True)
    assert lines_found(report) == PLACES
    assert lines_found(data_events(tmp_path)[-1]) == PLACES
    assert sum("skipped: " in line for line in said) >= len({found["code"] for found in report["findings"]})
    undisturbed = losses(tmp_path / "run")
    for step in (*range(5, 16), 0):
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{step:06}", ignore_errors=True)
    (tmp_path / "run/events.jsonl").unlink()
    shutil.rmtree(tmp_path / "run/exports")
    assert train(tmp_path, LINES, reading, *skip, resume=str(tmp_path / "run"))[0].exit_code == ExitCode.DONE
    again = losses(tmp_path / "run")
    assert min(again) == 5
    assert again == {step: loss for step, loss in undisturbed.items() if step >= 5}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("limit", ["4", "0.08"])
def test_more_bad_rows_than_allowed_end_the_run(tmp_path: Path, reading: str, limit: str) -> None:
    with pytest.raises(DataError) as caught:
        train(
            tmp_path, LINES, reading, "data.bad_rows=skip", f"data.max_bad_rows={limit}", "train.max_steps=15"
        )
    assert caught.value.code == "data.too-many-bad-rows"
    assert "data check" in str(caught.value.hint)


@pytest.mark.parametrize("reading", READINGS)
def test_bad_rows_are_an_error_unless_they_are_skipped(tmp_path: Path, reading: str) -> None:
    with pytest.raises(DataError, match=r"rows.*:(4|12|21|34|42)"):
        train(tmp_path, LINES, reading)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", b"[" + b",".join(line.strip() for line in LINES[4:10]) + b',{"instruction": '),
        ("rows.json", b'{"instruction": "a",\n"output": "b"}\n' + LINES[0]),
        ("rows.csv", b'instruction,output\na,b\nc,d\ne,"f\n' + b"g,h\n" * 50),
    ],
    ids=["torn array", "printed over lines", "open quote"],
)
@pytest.mark.parametrize("loading", ["memory", "indexed"])
def test_a_file_whose_rest_cannot_be_read_is_never_skipped(
    tmp_path: Path, name: str, content: bytes, loading: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "run.yaml").write_text(
        json.dumps({"model": "builtin:tiny", "data": {"train": name, "eval": 0, "loading": loading}})
    )
    changes = ("data.bad_rows=skip", "data.max_bad_rows=1000")
    loaded = load_config(tmp_path / "run.yaml", overrides=changes)
    with pytest.raises(DataError) as caught:
        run_training(loaded, out=tmp_path / "run", resume=None, say=lambda line: None)
    assert caught.value.code in ("data.broken-json", "data.broken-csv")


@pytest.mark.parametrize("reading", READINGS)
def test_rows_that_are_cut_or_left_out_are_told_before_the_first_step(tmp_path: Path, reading: str) -> None:
    """Through a pipe nothing is known before, so it is told at the end."""
    long = {2: row(2, "word " * 300).encode(), 5: row(5, "x").replace("Say 5.", "word " * 300).encode()}
    lines = [long.get(number, line) for number, line in enumerate([row(n).encode() for n in range(12)])]
    _, said = train(tmp_path, lines, reading, "data.overlong=truncate", "train.max_steps=3")
    told = [line.split(" (")[0] for line in said if line.startswith("warning: rows")]
    wanted = {
        "warning: rows cut at data.seq_len: 1",
        "warning: rows with no trained token within data.seq_len, left out: 1",
    }
    assert set(told) == wanted
    first, *last = data_events(tmp_path)
    assert (first["step"], first["at_end"]) == (0, False)
    assert [event["at_end"] for event in last] == ([] if reading == "memory" else [True])
    counted = (last or [first])[-1]
    assert (counted["rows_cut"], counted["rows_dropped"], counted["rows_checked"]) == (1, 1, 12)
    if reading != "pipe":
        assert (first["rows_cut"], first["rows_dropped"]) == (1, 1)
