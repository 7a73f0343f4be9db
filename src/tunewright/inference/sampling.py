"""How the next token is drawn: in NumPy, the same for every engine. B rows, K tokens in play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ConfigError
from tunewright.inference.decoder import Logits

FEW = 256
"""Tokens that are looked at first: they nearly always hold the one that is drawn, and sorting a whole
vocabulary of 150,000 takes longer than a small model's step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """temperature 0 takes the likeliest token always. top_k 0, top_p 1 and min_p 0 leave all tokens in play;
    min_p leaves those that are at least so many times as likely as the likeliest, before the other two.

    presence_penalty is taken from the logit of each token that the answer has already, frequency_penalty as
    often as it has it. logit_bias: token → what is added to its logit. Raises ConfigError for a value out of
    range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds = (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("seed", 0 <= self.seed < 2**64, "0 to 2^64 - 1"),
        )
        for name, fits, expected in bounds:
            if not fits:
                raise ConfigError(
                    "the value is out of range",
                    where=name,
                    got=getattr(self, name),
                    expected=expected,
                    code="config.bad-sampling",
                )


class Sampler:
    """What the draws of one answer depend on: its options, its own random numbers, keyed by (seed, number of
    the answer) so that they do not depend on the rest of a batch, and the tokens that it has already."""

    def __init__(self, options: SamplingOptions, number: int) -> None:
        self.options = options
        key = np.array([options.seed, number], dtype=np.uint64)
        self._random = np.random.Generator(np.random.Philox(key=key))
        self._counts: dict[int, int] = {}
        self._penalises = bool(options.presence_penalty or options.frequency_penalty)

    def uniform(self) -> float:
        """The next random number, from 0 up to 1."""
        return float(self._random.random())

    def note(self, token: int) -> None:
        """Count a token of the answer."""
        if self._penalises:
            self._counts[token] = self._counts.get(token, 0) + 1

    def changes(self) -> dict[int, float]:
        """Token → what is added to its logit."""
        options = self.options
        if not self._counts:
            return dict(options.logit_bias)
        found = {
            token: -(options.presence_penalty + options.frequency_penalty * count)
            for token, count in self._counts.items()
        }
        for token, amount in options.logit_bias.items():
            found[token] = found.get(token, 0.0) + amount
        return found


def choose(logits: Logits, samplers: Sequence[Sampler]) -> NDArray[np.int64]:
    """The next token of each row, [B]; samplers: one a row. The tokens are counted."""
    logits = _changed(logits, samplers)
    if all(sampler.options.temperature == 0 for sampler in samplers):
        tokens_B = logits.likeliest()
    else:
        tokens_B = _draw_rows(logits, samplers)
    for sampler, token in zip(samplers, tokens_B.tolist(), strict=True):
        sampler.note(token)
    return tokens_B


def _changed(logits: Logits, samplers: Sequence[Sampler]) -> Logits:
    changes = [
        (row, token, amount)
        for row, sampler in enumerate(samplers)
        for token, amount in sampler.changes().items()
    ]
    if not changes:
        return logits
    rows, tokens, amounts = zip(*changes, strict=True)
    return logits.changed(np.array(rows), np.array(tokens), np.array(amounts, np.float32))


def _draw_rows(logits: Logits, samplers: Sequence[Sampler]) -> NDArray[np.int64]:
    temperatures_B = np.array([sampler.options.temperature or 1.0 for sampler in samplers], np.float32)
    masses_B = logits.masses(temperatures_B)
    values_BK, tokens_BK = logits.top(max(FEW, *(sampler.options.top_k for sampler in samplers)))
    uniform_B = [sampler.uniform() if sampler.options.temperature else 0.0 for sampler in samplers]
    chosen_B = tokens_BK[:, 0].copy()
    for row, (sampler, uniform) in enumerate(zip(samplers, uniform_B, strict=True)):
        if sampler.options.temperature:
            found = draw(values_BK[row], tokens_BK[row], uniform, sampler.options, float(masses_B[row]))
            chosen_B[row] = -1 if found is None else found
    missing = [row for row in range(len(samplers)) if chosen_B[row] < 0]
    if missing:
        # A draw from the tail of the distribution: now all tokens, in order.
        values_BK, tokens_BK = logits.top(0)
        for row in missing:
            options = samplers[row].options
            found = draw(values_BK[row], tokens_BK[row], uniform_B[row], options, None)
            chosen_B[row] = tokens_BK[row, -1] if found is None else found
    return chosen_B


def draw(
    values_K: NDArray[np.float32],
    tokens_K: NDArray[np.int64],
    uniform: float,
    options: SamplingOptions,
    mass: float | None,
) -> int | None:
    """The token at which the summed probability of tokens in play, likeliest first, passes `uniform`.

    values_K: the largest logits in falling order, of tokens_K. mass: log Σ exp(logit / temperature) over the
    whole vocabulary; None says that values_K is the whole. In play are those that `min_p` leaves, of these
    the first `top_k`, and of those the fewest that hold `top_p` of their probability. None when the token may
    be beyond the K that are given.
    """
    in_play = int(np.isfinite(values_K).sum())
    if in_play < len(values_K):
        # Whatever follows is forbidden too.
        values_K, tokens_K, mass = values_K[:in_play], tokens_K[:in_play], None
    if options.min_p:
        least = values_K[0] + options.temperature * np.log(options.min_p)
        in_play = int((values_K >= least).sum())
        if in_play == len(values_K) and mass is not None:
            return None
        values_K, tokens_K, mass = values_K[:in_play], tokens_K[:in_play], None
    if options.top_k:
        values_K, tokens_K, mass = values_K[: options.top_k], tokens_K[: options.top_k], None
    # In float64: a float32 sum over a large vocabulary misses 1 by more than a rare token weighs.
    scaled_K = values_K.astype(np.float64) / options.temperature
    chances_K = np.exp(scaled_K - (scaled_K[0] if mass is None else mass))
    if mass is None:
        chances_K /= chances_K.sum()
    sums_K = chances_K.cumsum()
    is_whole = mass is None
    if options.top_p < 1:
        in_play = int(np.searchsorted(sums_K, options.top_p)) + 1
        if in_play > len(sums_K) and not is_whole:
            return None
        sums_K = sums_K[:in_play]
        is_whole = True
    place = int(np.searchsorted(sums_K, uniform * (sums_K[-1] if is_whole else 1.0), side="right"))
    if place < len(sums_K):
        return int(tokens_K[place])
    return int(tokens_K[len(sums_K) - 1]) if is_whole else None
