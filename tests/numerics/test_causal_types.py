"""A sample of the types that transformers lists: `make families` walks over all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from causal_types import causal_types
from causal_walk import walk_type

TRAINED = (
    "bailing_hybrid",  # linear attention
    "bert",  # dropout of its own, and an attention that knows no documents
    "falcon",  # linear layers of a class of its own
    "gemma4_text",  # settings of single layers
    "gpt2",  # weights stored the other way round
    "gpt_oss",  # sinks beside the scores
    "mamba2",  # infinite settings, and no attention at all
    "opt",  # a private key that changes the model
    "phimoe",  # routers that return tuples
    "qwen3_5_text",  # recurrent state
)
REFUSED = {
    "cpmant": "engine.attention-mismatch",  # attends in both directions
    "emu3": "model.not-causal",  # saved under a type of which transformers loads none
}


@pytest.mark.parametrize("model_type", TRAINED)
def test_a_type_trains_with_the_loss_of_transformers(model_type: str, tmp_path: Path) -> None:
    outcome = walk_type(model_type, tmp_path)
    assert outcome.is_right, outcome
    assert all(one.loss is not None for one in outcome.layouts.values()), outcome


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_type_that_cannot_train_is_refused_by_name(model_type: str, tmp_path: Path) -> None:
    outcome = walk_type(model_type, tmp_path)
    assert outcome.is_right, outcome
    assert all(one.refused.startswith(REFUSED[model_type]) for one in outcome.layouts.values()), outcome


def test_the_walk_knows_every_type_of_transformers() -> None:
    assert set(TRAINED) | set(REFUSED) < set(causal_types())
