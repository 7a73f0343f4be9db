"""Held-out metrics from global sums over labels, never from means of means."""

from __future__ import annotations

import math
from collections.abc import Callable

from tunewright.types import LossSums

# exp(709) is the largest a float holds; a loss above 100 nats a token is noise anyway.
MOST_NATS = 100.0


def valid_loss(sums: LossSums) -> float:
    """Mean negative log-likelihood in nats per unit of label weight."""
    return sums.loss / sums.weight if sums.weight else math.nan


def perplexity(sums: LossSums) -> float:
    """exp of the loss, capped at exp(100)."""
    return math.exp(min(valid_loss(sums), MOST_NATS))


def token_accuracy(sums: LossSums) -> float:
    """Share of labels that the model ranks first."""
    return sums.correct / sums.tokens if sums.tokens else math.nan


METRICS: dict[str, Callable[[LossSums], float]] = {
    "perplexity": perplexity,
    "token_accuracy": token_accuracy,
}
