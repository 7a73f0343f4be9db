"""Every way a user can get it wrong ends in one clear message, the right exit code and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tunewright.errors import ExitCode
from tunewright.models.resolve import resolve_model

GOOD = {"instruction": "Say hi", "input": "", "output": "hi"}


def write_run(folder: Path, content: str | bytes | None, **changes: object) -> Path:
    """A run file over train.jsonl with the given content (None: no file at all)."""
    if content is not None:
        (folder / "train.jsonl").write_bytes(content.encode() if isinstance(content, str) else content)
    sections = {
        "model": "builtin:tiny",
        "data": {"train": "train.jsonl", "eval": 0},
        "train": {"max_steps": 2, "batch_size": 2},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(sections))
    return path


def check_refused(done: subprocess.CompletedProcess[str], code: ExitCode, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "error[" in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


ROWS = json.dumps(GOOD) + "\n"
DATA_CASES = {
    "missing file": (None, ("train.jsonl",)),
    "empty file": ("", ("train.jsonl", "empty")),
    "broken JSON": (ROWS * 2 + '{"instruction": "x", \n' + ROWS, ("train.jsonl:3",)),
    "wrong format": ('{"colour": "red"}\n' * 3, ("colour",)),
    "no answer": (ROWS + json.dumps({**GOOD, "output": ""}) + "\n", ("train.jsonl:2",)),
    "all labels masked": (
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b", "weight": 0},
                ]
            }
        )
        + "\n",
        ("train.jsonl:1",),
    ),
    "NaN": (ROWS + '{"instruction": "x", "input": NaN, "output": "y"}\n', ("train.jsonl:2", "NaN")),
    "duplicate key": (
        ROWS + '{"instruction": "x", "output": "y", "output": "z"}\n',
        ("train.jsonl:2", "output"),
    ),
    "not UTF-8": (ROWS.encode() + b'{"instruction": "\xff", "output": "y"}\n', ("train.jsonl:2",)),
}


@pytest.mark.parametrize("case", DATA_CASES)
def test_bad_data_is_named_with_its_line(tunewright, tmp_path: Path, case: str) -> None:
    content, words = DATA_CASES[case]
    done = tunewright("train", write_run(tmp_path, content), "--out", "run")
    check_refused(done, ExitCode.DATA_ERROR, *words)
    assert not (tmp_path / "run").exists()


def test_an_over_long_row_is_refused_with_its_line(tunewright, tmp_path: Path) -> None:
    long = json.dumps({**GOOD, "output": "word " * 300}) + "\n"
    path = write_run(tmp_path, ROWS + long, data={"train": "train.jsonl", "eval": 0, "seq_len": 64})
    check_refused(tunewright("train", path, "--out", "run"), ExitCode.DATA_ERROR, "train.jsonl:2", "overlong")


def test_an_unknown_setting_names_line_and_nearest_name(tunewright, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: builtin:tiny\nadapter:\n  rnk: 4\ndata: {train: train.jsonl}\n"
    )
    done = tunewright("config", "check", "run.yaml")
    check_refused(done, ExitCode.USER_ERROR, "run.yaml:3", "adapter.rnk", "adapter.rank")


def test_an_unknown_model_is_refused(tunewright, tmp_path: Path) -> None:
    path = write_run(tmp_path, ROWS * 4, model="no-such-org/no-such-model")
    check_refused(tunewright("train", path, "--out", "run"), ExitCode.USER_ERROR, "no-such-org/no-such-model")
    assert not (tmp_path / "run").exists()


def model_copy(folder: Path, **config: object) -> Path:
    target = folder / "model"
    shutil.copytree(resolve_model("builtin:tiny").folder, target, symlinks=False)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps({**settings, **config}))
    return target


def test_remote_code_never_runs(tunewright, tmp_path: Path) -> None:
    target = model_copy(tmp_path, model_type="canary", auto_map={"AutoModelForCausalLM": "canary.Canary"})
    (target / "canary.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    done = tunewright("train", write_run(tmp_path, ROWS * 4, model=str(target)), "--out", "run")
    check_refused(done, ExitCode.USER_ERROR, "canary")
    assert not (tmp_path / "ran").exists()


def test_an_underscore_key_is_refused(tunewright, tmp_path: Path) -> None:
    target = model_copy(tmp_path, _attn_implementation_internal="some/kernel")
    done = tunewright("train", write_run(tmp_path, ROWS * 4, model=str(target)), "--out", "run")
    check_refused(done, ExitCode.USER_ERROR, "_attn_implementation_internal")


def test_pickle_weights_are_refused(tunewright, tmp_path: Path) -> None:
    target = model_copy(tmp_path)
    for path in target.glob("*.safetensors"):
        path.unlink()
    (target / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    done = tunewright("train", write_run(tmp_path, ROWS * 4, model=str(target)), "--out", "run")
    check_refused(done, ExitCode.USER_ERROR, "safetensors")


def test_a_lying_header_is_refused(tunewright, tmp_path: Path) -> None:
    target = model_copy(tmp_path)
    weights = next(target.glob("*.safetensors"))
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-512])
    done = tunewright("train", write_run(tmp_path, ROWS * 4, model=str(target)), "--out", "run")
    check_refused(done, ExitCode.USER_ERROR, weights.name)


def test_a_device_that_is_not_there_is_refused(tunewright, tmp_path: Path) -> None:
    done = tunewright("train", write_run(tmp_path, ROWS * 4, device="cuda:7"), "--out", "run")
    check_refused(done, ExitCode.USER_ERROR, "cuda:7")


def test_a_type_that_the_device_lacks_is_refused(tunewright, tmp_path: Path) -> None:
    path = write_run(tmp_path, ROWS * 4, device="cpu", train={"precision": "fp16", "max_steps": 1})
    check_refused(tunewright("train", path, "--out", "run"), ExitCode.USER_ERROR, "fp16", "train.precision")


def test_the_folder_of_another_run_is_refused_and_left_alone(tunewright, tmp_path: Path) -> None:
    path = write_run(tmp_path, ROWS * 4)
    assert tunewright("train", path, "--out", "run").returncode == ExitCode.DONE
    before = (tmp_path / "run/events.jsonl").read_bytes()
    check_refused(
        tunewright("train", path, "--out", "run"), ExitCode.USER_ERROR, "already holds a run", "--resume"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("keep me")
    check_refused(tunewright("train", path, "--out", "mine"), ExitCode.USER_ERROR, "thesis.txt")
    assert (tmp_path / "run/events.jsonl").read_bytes() == before


def test_a_resume_names_each_changed_setting(tunewright, tmp_path: Path) -> None:
    path = write_run(tmp_path, ROWS * 4)
    assert tunewright("train", path, "--out", "run").returncode == ExitCode.DONE
    changes = ("--set", "train.batch_size=1", "--set", "adapter.alpha=7")
    done = tunewright("train", path, "--out", "run", "--resume", *changes)
    check_refused(done, ExitCode.USER_ERROR, "train.batch_size", "adapter.alpha")


def test_a_resume_on_other_data_is_refused(tunewright, tmp_path: Path) -> None:
    path = write_run(tmp_path, ROWS * 4)
    assert tunewright("train", path, "--out", "run").returncode == ExitCode.DONE
    (tmp_path / "train.jsonl").write_text(ROWS.replace("hi", "ho") * 4)
    check_refused(tunewright("train", path, "--out", "run", "--resume"), ExitCode.USER_ERROR, "data")


def test_a_row_beyond_the_positions_of_the_model_is_refused(tunewright, tmp_path: Path) -> None:
    target = model_copy(tmp_path, max_position_embeddings=32)
    long = json.dumps({**GOOD, "output": "word " * 20}) + "\n"
    done = tunewright("train", write_run(tmp_path, ROWS + long, model=str(target)), "--out", "run")
    check_refused(done, ExitCode.USER_ERROR, "data.seq_len", "32")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tunewright, tmp_path: Path) -> None:
    train = {
        "learning_rate": 1e30,
        "max_steps": 6,
        "batch_size": 2,
        "schedule": "constant",
        "max_grad_norm": 0,
    }
    path = write_run(tmp_path, ROWS * 4, train=train, checkpoint={"every_steps": 2})
    done = tunewright("train", path, "--out", "run")
    check_refused(done, ExitCode.USER_ERROR, "finite")
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))
    assert not (tmp_path / "run/exports/final").exists()
    last = json.loads((tmp_path / "run/events.jsonl").read_text().splitlines()[-1])
    assert (last["type"], last["outcome"], last["code"]) == ("run_finished", "failed", "engine.diverged")


def test_a_resume_without_a_run_is_refused(tunewright, tmp_path: Path) -> None:
    done = tunewright("train", write_run(tmp_path, ROWS * 4), "--out", "nowhere", "--resume")
    check_refused(done, ExitCode.USER_ERROR, "nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_named_and_older_checkpoints_stay(tunewright, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        path = write_run(
            tmp_path,
            ROWS * 40,
            train={"batch_size": 2, "epochs": 3},
            checkpoint={"every_steps": 2, "keep": 50, "export_every": "never"},
        )
        done = tunewright("train", path, "--out", disk / "run")
        check_refused(done, ExitCode.USER_ERROR, "disk is full")
        kept = list((disk / "run/checkpoints").glob("step-*/manifest.json"))
        assert kept
        assert not list((disk / "run/checkpoints").glob("tmp-*"))
    finally:
        subprocess.run(["umount", disk], check=True)
