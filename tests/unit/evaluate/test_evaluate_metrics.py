"""Held-out metrics are ratios of global sums, whatever the batches."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from engine_cases import build_spec, draw_documents, lay_out
from numpy_engine import NumpyEngine, initial_values
from tunewright.config.schema import EvaluateConfig
from tunewright.evaluate.metrics import METRICS, perplexity, token_accuracy, valid_loss
from tunewright.evaluate.runner import run_evaluation
from tunewright.trackers.protocol import EVALUATION_METRICS
from tunewright.types import LossSums

DOCUMENTS = draw_documents([4, 30, 9, 17], seed=6, vocabulary=24)


@pytest.fixture
def engine(tmp_path) -> NumpyEngine:
    return NumpyEngine(build_spec(tmp_path), initial_values(24, 1))


def test_table_holds_what_the_config_offers():
    offered = get_args(get_args(EvaluateConfig.model_fields["metrics"].annotation)[0])
    assert set(METRICS) == set(offered)


def test_batches_of_unequal_size_count_by_their_labels(engine: NumpyEngine):
    whole = run_evaluation(engine, [lay_out([DOCUMENTS])], tuple(METRICS))
    parts = run_evaluation(engine, [lay_out([[document]]) for document in DOCUMENTS], tuple(METRICS))
    assert parts == pytest.approx(whole, rel=1e-12)
    assert set(whole) == set(EVALUATION_METRICS)
    means = [run_evaluation(engine, [lay_out([[d]])], ())["valid_loss"] for d in DOCUMENTS]
    assert whole["valid_loss"] != pytest.approx(sum(means) / len(means), rel=1e-3), "not a mean of means"


def test_metrics_are_of_the_sums_that_the_engine_gives(engine: NumpyEngine):
    sums = engine.evaluate(lay_out([DOCUMENTS]))
    found = run_evaluation(engine, [lay_out([DOCUMENTS])], tuple(METRICS))
    assert found["valid_loss"] == sums.loss / sums.weight
    assert found["valid_token_accuracy"] == sums.correct / sums.tokens
    assert found["perplexity"] == math.exp(found["valid_loss"])


def test_only_asked_metrics_are_reported(engine: NumpyEngine):
    assert set(run_evaluation(engine, [lay_out([DOCUMENTS])], ())) == {"valid_loss"}


def test_known_values():
    sums = LossSums(loss=6.0, weight=4.0, tokens=8, correct=2)
    assert valid_loss(sums) == 1.5
    assert perplexity(sums) == pytest.approx(math.exp(1.5))
    assert token_accuracy(sums) == 0.25


def test_perplexity_of_a_diverged_model_stays_a_number():
    assert perplexity(LossSums(1e6, 1.0, 1, 0)) == math.exp(100)
    assert perplexity(LossSums(math.inf, 1.0, 1, 0)) == math.exp(100)
    assert math.isnan(perplexity(LossSums(math.nan, 1.0, 1, 0)))


def test_nothing_to_evaluate_is_not_a_perfect_score():
    assert math.isnan(valid_loss(LossSums()))
    assert math.isnan(token_accuracy(LossSums()))
    assert math.isnan(perplexity(LossSums()))
