"""Every shipped preset is a start that works."""

from __future__ import annotations

import pytest

from tunewright.config.layers import preset_names, read_preset, read_preset_text
from tunewright.config.load import load_config
from tunewright.config.node import find

BASE = ("model=builtin:tiny", "data.train=rows.jsonl")


def test_the_presets_are_there():
    assert preset_names() == ["cpu", "demo", "h100", "h200", "laptop", "m4"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_wins_over_defaults_only(name):
    config = load_config(None, overrides=[*BASE, f"preset={name}"]).config
    rank = find(read_preset(name), ("adapter", "rank"))
    assert config.adapter.rank == rank.value
    own = load_config(
        None, text=f"preset: {name}\nmodel: m\ndata: {{train: a}}\nadapter: {{rank: 99}}\n"
    ).config
    assert own.adapter.rank == 99


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_why_and_is_no_run_of_its_own(name):
    assert read_preset_text(name).startswith("#")
    assert find(read_preset(name), ("preset",)) is None


@pytest.mark.parametrize("name", ["demo", "laptop"])
def test_presets_of_any_model_name_no_data(name):
    assert find(read_preset(name), ("data", "train")) is None


@pytest.mark.parametrize("name", ["h100", "h200", "m4", "cpu"])
def test_presets_of_a_device_are_whole_runs(name):
    config = load_config(None, overrides=[f"preset={name}"]).config
    assert config.data.train[0].path == "data/processed/train.jsonl"
    assert config.data.eval == "data/processed/val.jsonl"
    assert config.run.name is not None
    assert name in config.run.name


def test_the_mistral_presets_train_alike():
    """Only what the hardware decides differs: row length and rows a micro-batch."""
    configs = [load_config(None, overrides=[f"preset={name}"]).config for name in ("h100", "h200", "m4")]
    assert len({config.adapter for config in configs}) == 1
    assert len({config.train.model_copy(update={"micro_batch_size": 1}) for config in configs}) == 1
    assert len({(config.model.name, config.model.dtype) for config in configs}) == 1
    # nf4 has no kernels on Metal; `4bit` there is MLX's own form.
    assert [config.model.quantization.kind for config in configs] == ["nf4", "nf4", "4bit"]
    assert len({(config.checkpoint, config.evaluate, config.logging) for config in configs}) == 1
    assert [config.data.seq_len for config in configs] == [4096, 4096, 2048]


def test_the_mistral_presets_have_the_values_they_are_known_for():
    config = load_config(None, overrides=["preset=h100"]).config
    adapter, train = config.adapter, config.train
    assert config.model.name == "mistralai/Mistral-7B-Instruct-v0.2"
    assert (adapter.rank, adapter.alpha, adapter.dropout, len(adapter.targets)) == (16, 32, 0.05, 7)
    assert (train.epochs, train.learning_rate, train.schedule, train.warmup_ratio) == (
        3,
        2e-4,
        "cosine",
        0.03,
    )
    assert (train.weight_decay, train.max_grad_norm, train.precision) == (0.01, 0.3, "bf16")
    assert train.optimizer == "paged_adamw"
    assert set(adapter.targets) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert train.activation_checkpointing is True
    assert train.batch_size == train.micro_batch_size * 4
    assert (config.evaluate.every_steps, config.checkpoint.every_steps, config.checkpoint.keep) == (
        100,
        500,
        3,
    )
    assert config.logging.every_steps == 10


def test_an_override_of_the_preset_wins_over_the_file():
    text = "preset: laptop\nmodel: m\ndata: {train: a}\n"
    assert load_config(None, text=text, overrides=["preset=demo"]).origins["adapter.rank"] == "preset demo"
    assert load_config(None, text=text, overrides=["preset=null"]).origins["adapter.rank"] == "default"
