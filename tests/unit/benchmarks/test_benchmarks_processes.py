"""The commands end to end on a tiny model: what differs on the day of a GPU is the device alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import HERE, Child, Failed, environment, run_child, write_model_apart
from workload import draw_documents

SECONDS = 250.0


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.run(command, env=environment(1), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    write_model_apart("tiny", path, dtype="bfloat16", device="cpu")
    return path


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--model", "tiny", "--folder", str(folder), "--longest", "64", "--documents", "64", *more]


def test_a_gpu_run_measures_profiles_and_names_what_it_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = run("gpu.py", "--model", "tiny", "--device", "cpu", "--cases", "7b_full_rows", "--json", str(path))
    # Bars of cases that were not asked for are not judged, which is a failure as well.
    assert done.returncode == 1, done.stderr
    found = json.loads(path.read_text())
    case = found["cases"]["7b_full_rows"]
    assert "left_out" not in case, case
    assert case["steps"] == 3
    assert case["details"]["profile"]["shares"]["matrix products"] > 0
    assert found["matmul"]["peak"] > 0
    assert "matrix products" in done.stdout
    assert found["bars"]["0.5B, short documents: tokens/s"]["figure"] is None


def test_a_case_without_time_is_left_out_by_name(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = run("gpu.py", "--model", "tiny", "--device", "cpu", "--minutes", "0", "--json", str(path))
    assert done.returncode == 1
    cases = json.loads(path.read_text())["cases"]
    assert {case.get("left_out") for case in cases.values()} == {"no time was left"}
    assert "mistral_nf4             left out: no time was left" in done.stdout


def test_a_peer_trains_on_the_same_documents_to_the_same_losses(folder: Path) -> None:
    wanted = ["--batch", "8", "--steps", "3", "--rate", "0.01"]
    exact = ["--dtype", "fp32", "--precision", "fp32"]
    ours = run_child("ours.py", arguments(folder, *wanted, *exact), threads=1, seconds=SECONDS)
    theirs = run_child("trl_peer.py", arguments(folder, *wanted), threads=1, seconds=SECONDS)
    assert [step.work for step in ours.steps] == [step.work for step in theirs.steps]
    losses = [step.loss for step in ours.steps]
    assert [step.loss for step in theirs.steps] == pytest.approx(losses, rel=1e-3)
    # They fall by more than the two may differ: training is compared, not the start.
    assert losses[0] / losses[-1] > 1.01


def test_a_process_waits_for_its_turns(folder: Path) -> None:
    options = ["--batch", "8", "--warm-up", "1", "--turn", "2"]
    with Child("ours.py", arguments(folder, *options), threads=1, seconds=SECONDS) as child:
        child.wait_until_ready()
        turns = [child.play() for _ in range(3)]
        report = child.finish()
    tokens = [step.work.tokens for step in report.steps]
    assert [turn.tokens for turn in turns] == [tokens[0], sum(tokens[1:3]), sum(tokens[3:5])]
    assert len(report.steps) == 5
    assert all(turn.cpu_seconds > 0 for turn in turns)


def test_a_process_that_fails_says_why(folder: Path) -> None:
    with pytest.raises(Failed, match="invalid choice"):
        run_child("ours.py", arguments(folder, "--rows", "odd"), threads=1, seconds=SECONDS)


def test_a_process_ends_with_its_time(folder: Path) -> None:
    with pytest.raises(Failed, match="ended after its 0 seconds"):
        run_child("ours.py", arguments(folder), threads=1, seconds=0.1)


def test_documents_are_the_same_for_everybody() -> None:
    first, second = (draw_documents("conversations", 40, longest=300, vocabulary=512) for _ in range(2))
    assert [d.tokens_T.tolist() for d in first] == [d.tokens_T.tolist() for d in second]
    assert max(len(d) for d in first) <= 300
    assert all(d.tokens_T.min() >= 3 and d.tokens_T.max() < 512 for d in first)
    assert all(d.weights_T[0] == 0 and d.weights_T[-1] == 1 for d in first)


def test_a_measured_process_does_not_inherit_a_tuned_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert "MALLOC_TOP_PAD_" in os.environ
    assert "MALLOC_TOP_PAD_" not in environment(2)
