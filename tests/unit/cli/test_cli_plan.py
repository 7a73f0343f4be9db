"""`tunewright plan` as a user runs it, and what it must not load."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tunewright.cli.main import run
from tunewright.run import devices

ROW = {
    "messages": [{"role": "user", "content": "how far is it"}, {"role": "assistant", "content": "two miles"}]
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(ROW)}\n" * 1000)
    (tmp_path / "run.yaml").write_text("model: builtin:tiny\ndata: {train: rows.jsonl, seq_len: 256}\n")
    (tmp_path / "mistral.yaml").write_text("preset: h100\n")
    return tmp_path


def test_memory_split_speed_and_data_are_told(folder, capsys):
    assert run(["plan", "run.yaml", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for name in (
        "weights",
        "adapters",
        "optimizer",
        "gradients",
        "activations",
        "logits",
        "workspace",
        "peak",
    ):
        assert f"  {name} " in out
    assert "fits\n" in out
    assert "rows: as they are, a packed step has " in out
    assert "data: 1,000 rows of " in out
    assert "an estimate: " in out
    assert "duration: about " in out


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        (["train.precision=bf16"], "fast"),
        (["train.precision=fp32"], "plain: fp32 on a CPU"),
        (["train.precision=fp32", "model.kernels=fast"], "fast"),
        (["train.precision=bf16", "model.kernels=plain"], "plain: asked for"),
        (["adapter.kind=none"], "plain: all weights train"),
        (["train.precision=bf16", "adapter.modules_to_save=[lm_head]"], "plain: lm_head trains"),
        (["train.precision=bf16", "model.attention=eager"], "plain: eager attention"),
    ],
)
def test_the_path_that_is_counted_with_is_named(folder, capsys, settings, path):
    changes = [part for setting in settings for part in ("--set", setting)]
    assert run(["plan", "run.yaml", "--device", "cpu", *changes]) == 0
    assert f"\nkernels: {path}, as expected here" in capsys.readouterr().out


def test_compiled_layers_are_expected_on_cuda(folder, capsys):
    assert run(["plan", "mistral.yaml", "--device", "h100"]) == 0
    assert "\nkernels: compiled, as expected here" in capsys.readouterr().out


def test_evaluations_count_in_the_duration(folder, capsys):
    # Rows that are the same are held out together or not at all.
    rows = [
        {**ROW, "messages": [{"role": "user", "content": str(n)}, ROW["messages"][1]]} for n in range(1000)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def say(*settings, options=()):
        changes = [part for setting in ("train.max_steps=10", *settings) for part in ("--set", setting)]
        assert run(["plan", "run.yaml", "--device", "cpu", *options, *changes]) == 0
        return capsys.readouterr().out

    def plan(*settings):
        return json.loads(say(*settings, options=["--json"]))

    assert re.search(r" for 10 steps and 5 evaluations of [\d,]+ tokens\n", say("evaluate.every_steps=3"))

    none, few, many = (
        plan(*settings)
        for settings in (["data.eval=0"], ["data.eval=0.5"], ["data.eval=0.5", "evaluate.every_steps=3"])
    )
    assert (few["evaluations"], many["evaluations"]) == (2, 5)
    assert none["seconds"] == pytest.approx(10 * none["step_seconds"])
    assert few["held_out_tokens"] == pytest.approx(500 * few["tokens_per_row"], rel=0.02)
    for one in (few, many):
        evaluated = one["evaluations"] * one["evaluation_seconds"]
        assert one["seconds"] == pytest.approx(10 * one["step_seconds"] + evaluated)
    # A forward pass alone, of a token.
    cost = few["evaluation_seconds"] / few["held_out_tokens"] * few["tokens_per_second"]
    assert 0.3 < cost < 0.5


def test_a_held_out_file_is_looked_at_for_the_duration(folder, capsys):
    (folder / "held.jsonl").write_text(f"{json.dumps(ROW)}\n" * 100)
    (folder / "rows.jsonl").write_text(f"{json.dumps(ROW)}\n" * 12_000)
    assert run(["plan", "run.yaml", "--json", "--device", "cpu", "--set", "data.eval=held.jsonl"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rows_known"] is False
    assert plan["held_out_tokens"] == pytest.approx(100 * plan["tokens_per_row"], rel=0.02)
    assert run(["plan", "run.yaml", "--device", "cpu", "--set", "data.eval=gone.jsonl"]) == 0
    assert " steps, evaluations come on top\n" in capsys.readouterr().out


def test_rows_and_steps_are_those_of_a_small_file(folder, capsys):
    assert run(["plan", "run.yaml", "--json", "--set", "data.eval=0", "--set", "train.epochs=2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rows"] == 1000
    assert (plan["rows_sampled"], plan["rows_known"]) == (1000, True)
    assert plan["steps"] == 2 * 63
    assert plan["peak_bytes"] == sum(plan["parts_bytes"].values())
    assert plan["fits"] is True


def test_a_preset_is_planned_without_model_and_data(folder, capsys):
    assert run(["plan", "mistral.yaml", "--device", "h100"]) == 0
    out = capsys.readouterr().out
    assert "model sizes: from the built-in table" in out
    assert "data: no files to look at" in out
    assert "duration: not known without data or train.max_steps" in out


def test_a_duration_of_given_steps_needs_no_data(folder, capsys):
    assert run(["plan", "mistral.yaml", "--device", "h100", "--set", "train.max_steps=100"]) == 0
    out = capsys.readouterr().out
    assert "duration: about 16 minutes for 100 steps" in out
    assert "not known" not in out


def test_a_small_model_is_told_in_mebibytes(folder, capsys):
    assert run(["plan", "run.yaml", "--device", "cpu", "--set", "train.precision=fp32"]) == 0
    assert "  weights              9.40 MiB\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "metal"])
def test_a_device_that_is_not_here_is_no_cpu(folder, capsys, monkeypatch, name):
    monkeypatch.setattr(devices, "_local_device", lambda configured: devices.find_device("cpu"))
    assert run(["plan", "run.yaml", "--set", f"device={name}"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error[config.device]: device: this device is not on this machine")
    assert captured.out == ""
    assert run(["plan", "run.yaml", "--set", f"device={name}", "--device", "cpu"]) == 0


def test_a_row_longer_than_the_models_positions_is_named(folder, capsys):
    row = {"messages": [{"role": "user", "content": "x" * 4500}, ROW["messages"][1]]}
    (folder / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
    assert run(["plan", "run.yaml", "--set", "data.seq_len=6000"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "error[config.positions]: data.seq_len: a row is longer than the positions"
    )
    assert "set data.seq_len to 4096" in captured.err


def test_nf4_is_not_planned_for_an_apple_gpu(folder, capsys):
    asked = ["plan", "mistral.yaml", "--device", "m4"]
    for engine in ("auto", "torch", "mlx"):
        assert run([*asked, "--set", f"engine={engine}"]) == 1
        assert "nf4 needs the torch engine on CUDA or a CPU" in capsys.readouterr().err


def test_what_does_not_fit_ends_with_1_and_says_what_would(folder, capsys):
    assert (
        run(["plan", "mistral.yaml", "--device", "24GiB", "--set", "train.activation_checkpointing=false"])
        == 1
    )
    captured = capsys.readouterr()
    assert "does not fit" in captured.out
    assert "speed: not known for this device" in captured.out
    assert captured.err.startswith("error[config.memory]: a GPU of 24GiB: ")
    assert "train.activation_checkpointing: 25 with train.micro_batch_size: 4" in captured.err


def test_a_model_larger_than_the_device_has_no_remedy(folder, capsys):
    assert run(["plan", "mistral.yaml", "--device", "2GiB"]) == 1
    assert "use a smaller model or a larger device" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["h300", "24", "0GiB", "-1GiB", ""])
def test_an_unknown_device_class_is_named(folder, capsys, device):
    assert run(["plan", "run.yaml", "--device", device]) == 1
    assert "error[config.device]: --device: no such device class" in capsys.readouterr().err


def test_a_model_that_nobody_knows_is_named(folder, capsys):
    assert run(["plan", "run.yaml", "--set", "model=someone/unheard-of"]) == 1
    assert "error[model.unknown-size]" in capsys.readouterr().err


def test_nothing_heavy_is_loaded(folder):
    code = """
import sys
from tunewright.cli.main import run
code = run(["plan", "run.yaml", "--device", "cpu"])
heavy = {"torch", "mlx", "transformers.models.auto"} & set(sys.modules)
sys.exit(f"{code} {heavy}" if code or heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
