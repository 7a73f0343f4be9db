"""The engine's own random key. Every draw gets a key split off it; MLX's global state is never used."""

from __future__ import annotations

import mlx.core as mx


class RandomKey:
    """A key that moves on with every draw. key: [2] uint32."""

    def __init__(self, seed: int) -> None:
        self.key = mx.random.key(seed)

    def split(self) -> mx.array:
        """A key that no other draw gets."""
        self.key, drawn = mx.random.split(self.key)
        return drawn
