"""How the next token is drawn: in NumPy, the same for every engine. B rows, K tokens in play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ConfigError
from tunewright.inference.decoder import Logits


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """temperature 0 takes the likeliest token always. top_k 0 and top_p 1 leave all tokens in play.

    Raises ConfigError for a value out of range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
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
    """Draws tokens for the answers numbered `rows`. Each has its own random numbers, keyed by (seed, its
    number), so that it does not depend on which others are in the batch."""

    def __init__(self, options: SamplingOptions, rows: Sequence[int]) -> None:
        self._options = options
        self._draws = {
            row: np.random.Generator(np.random.Philox(key=np.array([options.seed, row], dtype=np.uint64)))
            for row in rows
        }

    def choose(self, logits: Logits, rows: Sequence[int]) -> NDArray[np.int64]:
        """The next token of each of `rows`, [B]."""
        if self._options.temperature == 0:
            return logits.likeliest()
        uniform_B = np.array([self._draws[row].random() for row in rows])
        return draw(*logits.top(self._options.top_k), uniform_B, self._options)


def draw(
    values_BK: NDArray[np.float32],
    tokens_BK: NDArray[np.int64],
    uniform_B: NDArray[np.float64],
    options: SamplingOptions,
) -> NDArray[np.int64]:
    """The token at which the summed probability of tokens in play, likeliest first, passes `uniform_B`.

    values_BK: the logits that top_k leaves, in falling order, of tokens_BK. In play are of those the fewest
    that hold `top_p` of the probability.
    """
    # In float64: a float32 sum over a large vocabulary misses 1 by more than a rare token weighs.
    scaled_BK = (values_BK - values_BK[:, :1]).astype(np.float64) / options.temperature
    chances_BK = np.exp(scaled_BK)
    chances_BK /= chances_BK.sum(axis=-1, keepdims=True)
    before_BK = chances_BK.cumsum(axis=-1) - chances_BK
    chances_BK = np.where(before_BK < options.top_p, chances_BK, 0.0)
    sums_BK = chances_BK.cumsum(axis=-1)
    place_B = (sums_BK <= uniform_B[:, None] * sums_BK[:, -1:]).sum(axis=-1)
    last_B = (chances_BK > 0).sum(axis=-1) - 1
    return np.take_along_axis(tokens_BK, np.minimum(place_B, last_B)[:, None], axis=-1)[:, 0]
