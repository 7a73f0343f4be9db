"""Every shipped preset is a start that works."""

from __future__ import annotations

import pytest

from tunewright.config.layers import preset_names, read_preset, read_preset_text
from tunewright.config.load import load_config
from tunewright.config.node import find

BASE = ("model=builtin:tiny", "data.train=rows.jsonl")


def test_the_presets_are_there():
    assert preset_names() == ["demo", "laptop"]


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
def test_a_preset_says_why_and_names_no_data(name):
    assert read_preset_text(name).startswith("#")
    preset = read_preset(name)
    assert find(preset, ("data", "train")) is None
    assert find(preset, ("preset",)) is None


def test_an_override_of_the_preset_wins_over_the_file():
    text = "preset: laptop\nmodel: m\ndata: {train: a}\n"
    assert load_config(None, text=text, overrides=["preset=demo"]).origins["adapter.rank"] == "preset demo"
    assert load_config(None, text=text, overrides=["preset=null"]).origins["adapter.rank"] == "default"
