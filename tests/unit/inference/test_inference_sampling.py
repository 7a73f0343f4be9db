from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ConfigError
from tunewright.inference.sampling import Sampler, SamplingOptions, draw

LOGITS = np.array([[0.0, 2.0, 1.0, -1.0, 2.5]], np.float32)


class HostLogits:
    """Logits that lie in host memory."""

    def __init__(self, logits_BV: np.ndarray) -> None:
        self._logits_BV = logits_BV

    def likeliest(self) -> np.ndarray:
        return self._logits_BV.argmax(-1)

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        tokens_BK = np.argsort(-self._logits_BV, axis=-1, kind="stable")[:, : count or None]
        return np.take_along_axis(self._logits_BV, tokens_BK, axis=-1), tokens_BK


def _draw(logits_BV: np.ndarray, uniform_B: np.ndarray, options: SamplingOptions) -> np.ndarray:
    return draw(*HostLogits(logits_BV).top(options.top_k), uniform_B, options)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def _grid(options: SamplingOptions, points: int = 20_000) -> np.ndarray:
    """Share of evenly spread numbers that give each token: the exact law, without chance."""
    uniform = (np.arange(points) + 0.5) / points
    tokens = _draw(LOGITS.repeat(points, axis=0), uniform, options)
    return np.bincount(tokens, minlength=LOGITS.shape[1]) / points


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_with_their_probability(temperature: float) -> None:
    shares = _grid(SamplingOptions(temperature=temperature))
    np.testing.assert_allclose(shares, _softmax(LOGITS[0] / temperature), atol=2e-4, rtol=0)


def test_top_k_keeps_the_likeliest_and_their_proportions() -> None:
    shares = _grid(SamplingOptions(temperature=1, top_k=2))
    np.testing.assert_allclose(shares[[1, 4]], _softmax(LOGITS[0, [1, 4]]), atol=2e-4, rtol=0)
    assert shares[[0, 2, 3]].sum() == 0


def test_top_p_keeps_the_fewest_that_hold_it() -> None:
    chances = np.sort(_softmax(LOGITS[0]))[::-1].cumsum()
    shares = _grid(SamplingOptions(temperature=1, top_p=float(chances[1]) + 1e-4))
    assert (shares > 0).tolist() == [False, True, True, False, True]
    assert (_grid(SamplingOptions(temperature=1, top_p=1e-9)) > 0).tolist() == [False] * 4 + [True]


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 5),
    st.floats(0.01, 1),
    st.integers(0, 40),
)
def test_a_draw_is_always_a_token_in_play(
    logits: list[float], uniform: float, temperature: float, top_p: float, top_k: int
) -> None:
    options = SamplingOptions(temperature=temperature, top_p=top_p, top_k=top_k)
    logits_BV = np.array([logits], np.float32)
    token = int(_draw(logits_BV, np.array([uniform]), options)[0])
    better = int((logits_BV > logits_BV[0, token]).sum())
    assert better < (top_k or len(logits))
    chances = _softmax(logits_BV[0].astype(np.float64) / temperature)
    assert chances[logits_BV[0] > logits_BV[0, token]].sum() < top_p + 1e-6


def test_temperature_0_takes_the_likeliest_without_a_draw() -> None:
    assert Sampler(SamplingOptions(), [0]).choose(HostLogits(LOGITS), [0]).tolist() == [4]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SamplingOptions(**options)
