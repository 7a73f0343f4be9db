"""How the next token is drawn from the logits. B rows, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunewright.errors import ConfigError


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

    def choose(self, logits_BV: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The next token of each of `rows`, [B] int64 on the device of the logits."""
        if self._options.temperature == 0:
            return logits_BV.argmax(dim=-1)
        uniform_B = torch.tensor(
            [self._draws[row].random() for row in rows], dtype=torch.float64, device="cpu"
        )
        return draw(logits_BV, uniform_B, self._options)


def draw(logits_BV: torch.Tensor, uniform_B: torch.Tensor, options: SamplingOptions) -> torch.Tensor:
    """The token at which the summed probability of tokens in play, likeliest first, passes `uniform_B`.

    In play are the `top_k` likeliest, and of those the fewest that hold `top_p` of the probability.
    """
    count = min(options.top_k or logits_BV.shape[-1], logits_BV.shape[-1])
    values_BK, tokens_BK = logits_BV.float().topk(count, dim=-1, sorted=True)
    # On the host in float64: MPS has none, and a float32 sum over a large vocabulary misses 1 by more than a
    # rare token weighs.
    chances_BK = torch.softmax(values_BK.cpu().double() / options.temperature, dim=-1)
    before_BK = chances_BK.cumsum(dim=-1) - chances_BK
    chances_BK = torch.where(before_BK < options.top_p, chances_BK, 0.0)
    sums_BK = chances_BK.cumsum(dim=-1)
    place_B1 = torch.searchsorted(sums_BK, uniform_B[:, None] * sums_BK[:, -1:], right=True)
    last_B1 = (chances_BK > 0).sum(dim=-1, keepdim=True) - 1
    return tokens_BK.gather(-1, place_B1.minimum(last_B1).to(tokens_BK.device))[:, 0]
