"""The NumPy engine's gradients against finite differences, and its dropout state."""

from __future__ import annotations

import numpy as np
import pytest

from engine_cases import build_spec, draw_documents, lay_out
from numpy_engine import NumpyEngine, initial_values, loss_and_gradients

VOCABULARY = 24
BATCH = lay_out(
    [
        draw_documents([5, 9], seed=1, vocabulary=VOCABULARY),
        draw_documents([7], seed=2, vocabulary=VOCABULARY),
    ]
)


@pytest.mark.parametrize("name", ["embedding", "hidden.weight", "hidden.bias", "output"])
def test_gradient_equals_finite_differences(name: str):
    values = {key: value.astype(np.float64) for key, value in initial_values(VOCABULARY, 3).items()}
    labels = int(np.count_nonzero(BATCH.weights_BT))
    keep_ND = (np.random.Generator(np.random.Philox(5)).random((labels, 16)) >= 0.2) / 0.8
    _, gradients = loss_and_gradients(values, BATCH, keep_ND)
    step = 1e-6
    flat = values[name].reshape(-1)
    for index in range(0, flat.size, max(1, flat.size // 60)):
        at = flat[index]
        losses = []
        for moved in (at + step, at - step):
            flat[index] = moved
            losses.append(loss_and_gradients(values, BATCH, keep_ND)[0].loss)
        flat[index] = at
        measured = (losses[0] - losses[1]) / (2 * step)
        assert gradients[name].reshape(-1)[index] == pytest.approx(measured, rel=1e-6, abs=1e-8)


def test_dropout_draws_from_the_state_that_is_saved(tmp_path):
    spec = build_spec(tmp_path, adapter={"dropout": 0.5})
    engine = NumpyEngine(spec, initial_values(VOCABULARY, 3))
    state = engine.snapshot()
    losses = []
    for back in (False, True, False):
        if back:
            engine.restore(state)
        engine.forward_backward([BATCH], denominator=1.0)
        losses.append(engine.optim_step(lr=0.0, skip_above=None).read().sums.loss)
    assert losses[0] == losses[1] != losses[2]
