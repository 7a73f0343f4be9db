"""Every setting explains itself, and its words fit its type."""

from __future__ import annotations

import pytest

from tunewright.config.faults import NAMES_ELSEWHERE
from tunewright.config.load import leaves, load_config
from tunewright.config.node import dotted
from tunewright.config.settings import field_at, list_settings


def test_every_setting_has_help_with_a_full_stop():
    assert [setting.path for setting in list_settings() if not setting.help.endswith(".")] == []


def test_names_of_other_trainers_point_at_settings():
    known = {setting.path for setting in list_settings()}
    assert [target for target in NAMES_ELSEWHERE.values() if target not in known] == []
    assert [name for name in NAMES_ELSEWHERE if name in known] == []


def test_the_list_is_what_a_configuration_holds():
    config = load_config(None, overrides=["model=m", "data.train=a"]).config
    held = {dotted(path).replace(".0.", ".*.") for path, _ in leaves(config.model_dump(mode="json"))}
    assert held == {setting.path for setting in list_settings() if not setting.section}


def test_only_model_and_data_are_required():
    required = [setting.path for setting in list_settings() if setting.required and not setting.section]
    assert required == ["model.name", "data.train.*.path"]


def test_the_number_of_settings_stays_small():
    # A budget, not a fact: whoever raises it has looked for one to drop first.
    assert sum(not setting.section for setting in list_settings()) <= 75


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("train.learning_rate", "auto or a number above 0"),
        ("train.warmup_ratio", "a number of at least 0 and of at most 1"),
        ("train.max_steps", "a whole number of at least 1 or null"),
        ("train.schedule", "cosine, linear or constant"),
        ("data.train", "a list, each item a mapping"),
        ("data.train.*.columns", "a mapping of text to text"),
        ("evaluate.metrics", "a list of perplexity or token_accuracy"),
        ("data.packing", "true or false"),
    ],
)
def test_a_type_is_told_in_words(path, kind):
    assert next(setting.kind for setting in list_settings() if setting.path == path) == kind


def test_field_at_stops_where_the_schema_does():
    field, reached = field_at(("train", "learning_rate", "constrained-float"))
    assert reached == ("train", "learning_rate")
    assert field.default == "auto"
    assert field_at(("zzz",)) == (None, ())
