"""A model that cannot keep packed documents apart, asked to: the run has one document a row and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from families import make_family
from tunewright.trackers.jsonl import read_steps

SETTINGS = ("device=cpu", "engine=torch", "train.precision=fp32", "train.max_steps=2", "adapter.dropout=0")


def _overrides(*settings: str) -> list[str]:
    return [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]


@pytest.mark.parametrize("family", ["lfm2", "bloom"])
def test_asking_for_packed_rows_changes_no_loss(tunewright, run_file, tmp_path: Path, family: str) -> None:
    make_family(family, tmp_path / "model")
    found = {}
    for packing in ("true", "false"):
        settings = _overrides("model=model", f"data.packing={packing}")
        done = tunewright("train", run_file, "--out", packing, *settings)
        assert done.returncode == 0, done.stderr
        assert ("one document a row, padded (" in done.stderr) == (packing == "true")
        plan = json.loads((tmp_path / packing / "plan.json").read_text())
        assert plan["layout"] == "padded"
        events = [json.loads(line) for line in (tmp_path / packing / "events.jsonl").read_text().splitlines()]
        assert (events[0]["layout"], events[0]["layout_reason"]) == ("padded", plan["layout_reason"])
        assert bool(plan["layout_reason"]) == (packing == "true")
        evaluated = [event["valid_loss"] for event in events if event["type"] == "evaluation"]
        assert evaluated
        steps = read_steps(tmp_path / packing / "events.jsonl")
        found[packing] = [steps[1]["loss"], steps[2]["loss"], *evaluated]
    assert found["true"] == pytest.approx(found["false"], rel=1e-5)
