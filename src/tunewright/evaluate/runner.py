"""Evaluate an engine on held-out batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunewright.engines.protocol import Engine
from tunewright.evaluate.metrics import METRICS, valid_loss
from tunewright.types import Batch, LossSums

# Event names of metrics that also exist for training steps.
EVENT_NAMES = {"token_accuracy": "valid_token_accuracy"}


def run_evaluation(engine: Engine, batches: Iterable[Batch], metrics: Sequence[str]) -> dict[str, float]:
    """valid_loss and the asked metrics over all batches and ranks, by event name."""
    sums = sum((engine.evaluate(batch) for batch in batches), LossSums())
    loss, weight, tokens, correct = engine.reduce_sum((sums.loss, sums.weight, sums.tokens, sums.correct))
    total = LossSums(loss, weight, int(tokens), int(correct))
    named = {EVENT_NAMES.get(name, name): METRICS[name](total) for name in metrics}
    return {"valid_loss": valid_loss(total), **named}
