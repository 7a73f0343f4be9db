"""The tree itself, as code builds it: short forms, bounds, nothing unknown, nothing changed later."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from tunewright.config.schema import RunConfig


def build(**sections):
    return RunConfig.model_validate({"model": "m", "data": {"train": "a"}} | sections)


@pytest.mark.parametrize("train", ["a", {"path": "a"}, ["a"], [{"path": "a"}], ({"path": "a"},)])
def test_short_forms_of_data_are_one_thing(train):
    assert build(data={"train": train}) == build()


def test_short_forms_of_sections():
    short = build(model="m", adapter="none", method="supervised", run="x", parallel="single")
    assert short == build(
        model={"name": "m"},
        adapter={"kind": "none"},
        method={"type": "supervised"},
        run={"name": "x"},
        parallel={"strategy": "single"},
    )


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"epochs": True}},
        {"train": {"seed": False}},
        {"checkpoint": {"export_every": True}},
        {"data": {"train": "a", "eval": True}},
        {"version": True},
        {"adapter": {"alpha": math.inf}},
        {"train": {"learning_rate": math.nan}},
        {"train": {"unknown": 1}},
        {"data": {"train": 3}},
        {"data": {"train": []}},
        {"model": ""},
    ],
)
def test_what_makes_no_sense_is_refused(sections):
    with pytest.raises(ValidationError):
        build(**sections)


def test_truth_is_fine_where_it_is_meant():
    config = build(train={"activation_checkpointing": True}, checkpoint={"keep_best": False})
    assert config.train.activation_checkpointing is True
    assert config.checkpoint.keep_best is False


def test_defaults_have_their_type_too():
    assert type(build().train.epochs) is float
    assert type(build().adapter.alpha) is float


def test_nothing_changes_a_configuration():
    with pytest.raises(ValidationError, match="frozen"):
        build().train.epochs = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_the_json_schema_carries_the_help():
    schema = RunConfig.model_json_schema()
    assert schema["$defs"]["TrainConfig"]["properties"]["batch_size"]["description"].startswith("Examples")
