"""A file read when its turn comes: bounded memory, an index that is made once, exact resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from processes import child_environment, events, losses
from tunewright.errors import ExitCode

MEGABYTE = 10**6
# What 20 MB of rows may take beyond a few: the index is read in place, the rows of a step are let go.
ROOM_BYTES = 40 * MEGABYTE

STREAM = """
import re, sys
from itertools import islice
from pathlib import Path
from tunewright.config.schema import DataConfig
from tunewright.data.collate import BatchShape
from tunewright.data.prepare import prepare_data
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.data.templates import load_tokenizer
from tunewright.models.resolve import resolve_model

data = DataConfig.model_validate(
    {"train": sys.argv[1], "eval": 0.0, "loading": "indexed", "seq_len": 512, "overlong": "truncate"}
)
prepared = prepare_data(data, load_tokenizer(resolve_model("builtin:tiny").folder, None), Path.cwd(), 0)
rule = StepRule(4, None, BatchShape(2, 512, True, 0))
for step in islice(StepStream(prepared.train_sources, rule, seed=1).steps(), 50):
    assert step.tokens
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def write_rows(path: Path, size: int) -> None:
    answer = "a line of an answer that goes on for a while, "
    with path.open("w") as file:
        row = 0
        while file.tell() < size or row < 40:
            text = [f"Case {row}?", answer * (1 + row * 7 % 31)]
            turns = [{"role": r, "content": t} for r, t in zip(("user", "assistant"), text, strict=True)]
            file.write(json.dumps({"messages": turns}) + "\n")
            row += 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks: list[int] = []
    for size in (0, 20 * MEGABYTE):
        write_rows(tmp_path / "rows.jsonl", size)
        done = subprocess.run(
            [sys.executable, "-c", STREAM, "rows.jsonl"],
            cwd=tmp_path,
            env=child_environment(tmp_path, {}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < ROOM_BYTES


def test_a_run_goes_on_from_the_index_to_the_same_losses(tunewright, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 2 * MEGABYTE)
    (tmp_path / "run.yaml").write_text(
        """model: builtin:tiny
data: {train: rows.jsonl, eval: 0.001, loading: indexed, seq_len: 128, overlong: truncate}
adapter: {rank: 4, dropout: 0.1}
train: {max_steps: 6, batch_size: 2}
checkpoint: {every_steps: 3, export_every: never}
"""
    )
    whole = tunewright("train", "run.yaml", "--out", "run")
    assert whole.returncode == ExitCode.DONE, whole.stderr
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert (report["loading"], report["rows_checked"] < report["rows_read"]) == ("indexed", True)
    (index,) = (tmp_path / "cache/data").glob("*.rows")
    made, expected = index.stat().st_mtime_ns, losses(tmp_path / "run")
    resumed = tunewright("train", "--resume", "run/checkpoints/step-000003")
    assert resumed.returncode == ExitCode.DONE, resumed.stderr
    again = [event for event in events(tmp_path / "run") if event["type"] == "step" and event["attempt"] == 2]
    assert {event["step"]: event["loss"] for event in again} == {n: expected[n] for n in (4, 5, 6)}
    assert index.stat().st_mtime_ns == made
