from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ConfigError
from tunewright.inference.sampling import Sampler, SamplingOptions, choose, draw

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

    def masses(self, temperatures_B: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(self._logits_BV.astype(np.float64) / temperatures_B[:, None], axis=-1)

    def of(self, tokens_B: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self._logits_BV, tokens_B[:, None], axis=-1)[:, 0]

    def rows(self, places: Sequence[int]) -> HostLogits:
        return HostLogits(self._logits_BV[list(places)])

    def changed(self, rows_N: np.ndarray, tokens_N: np.ndarray, amounts_N: np.ndarray) -> HostLogits:
        logits_BV = self._logits_BV.copy()
        np.add.at(logits_BV, (rows_N, tokens_N), amounts_N)
        return HostLogits(logits_BV)


def _draw(logits_BV: np.ndarray, uniform_B: np.ndarray, options: SamplingOptions) -> np.ndarray:
    values_BK, tokens_BK = HostLogits(logits_BV).top(0)
    rows = zip(values_BK, tokens_BK, uniform_B.tolist(), strict=True)
    return np.array([draw(values, tokens, uniform, options, None) for values, tokens, uniform in rows])


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


@given(
    st.integers(2, 40),
    st.integers(1, 40),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.05, 5),
    st.sampled_from([1.0, 0.9, 0.5]),
)
def test_a_look_at_the_few_likeliest_gives_the_token_that_all_give(
    vocabulary: int, few: int, uniform: float, temperature: float, top_p: float
) -> None:
    options = SamplingOptions(temperature=temperature, top_p=top_p)
    logits = HostLogits(np.random.default_rng(vocabulary).normal(size=(1, vocabulary)).astype(np.float32))
    mass = float(logits.masses(np.array([temperature]))[0])
    whole, part = (tuple(values[0] for values in logits.top(count)) for count in (0, few))
    found = draw(*part, uniform, options, mass)
    assert found in (None, draw(*whole, uniform, options, None))
    if few >= vocabulary:
        assert found is not None or uniform > 1 - 1e-6


def test_a_draw_from_the_tail_looks_at_all_tokens() -> None:
    logits = HostLogits(np.zeros((1, 600), np.float32))
    samplers = [Sampler(SamplingOptions(temperature=1, seed=seed), 0) for seed in range(40)]
    drawn = [int(choose(logits, [sampler])[0]) for sampler in samplers]
    uniform = [Sampler(sampler.options, 0).uniform() for sampler in samplers]
    assert drawn == [int(600 * value) for value in uniform]
    assert max(drawn) > 256


def test_temperature_0_takes_the_likeliest_without_a_draw() -> None:
    assert choose(HostLogits(LOGITS), [Sampler(SamplingOptions(), 0)]).tolist() == [4]


def test_each_row_of_a_batch_has_its_own_options() -> None:
    logits = HostLogits(LOGITS.repeat(3, axis=0))
    options = (
        SamplingOptions(),
        SamplingOptions(logit_bias={3: 100.0}),
        SamplingOptions(temperature=2, logit_bias={0: 100.0}),
    )
    assert choose(logits, [Sampler(each, 0) for each in options]).tolist() == [4, 3, 0]


def test_penalties_count_what_the_answer_has_already() -> None:
    logits = HostLogits(LOGITS)
    presence, frequency = (
        Sampler(SamplingOptions(**{name: 0.6}), 0) for name in ("presence_penalty", "frequency_penalty")
    )
    # 4 leads 1 by 0.5 and 2 by 1.5: one penalty once, or one a time.
    assert [int(choose(logits, [presence])[0]) for _ in range(6)] == [4, 1, 4, 4, 4, 4]
    assert [int(choose(logits, [frequency])[0]) for _ in range(6)] == [4, 1, 4, 1, 4, 2]


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


def test_min_p_leaves_what_is_near_the_likeliest() -> None:
    chances = _softmax(LOGITS[0])
    expected = np.where(chances >= 0.2 * chances.max(), chances, 0)
    found = _grid(SamplingOptions(temperature=1.0, min_p=0.2))
    assert found == pytest.approx(expected / expected.sum(), abs=1e-3)
    # With few of many tokens at hand, the rest may be in play too.
    values, tokens = HostLogits(LOGITS).top(2)
    assert draw(values[0], tokens[0], 0.5, SamplingOptions(temperature=1.0, min_p=0.2), 3.3) is None


def test_what_is_forbidden_is_never_drawn() -> None:
    logits = np.where([True, False, True, False, False], LOGITS, -np.inf).astype(np.float32)
    for options in (SamplingOptions(temperature=1.5), SamplingOptions(temperature=1.0, top_p=0.9, top_k=4)):
        uniform = np.append(np.linspace(0, 1, 500, endpoint=False), np.nextafter(1, 0))
        assert set(_draw(logits.repeat(501, axis=0), uniform, options)) == {0, 2}
