"""Proof that merged weights on disk compute what the trained model in memory does.

Log-probabilities of some real rows, before and after; the bound is four times what these rows move between
a bf16 and an fp32 forward, since weights are rounded as well as activations. Both are root mean squares over
all tokens: the largest difference is that of one token, which may be any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from tunewright.engines.merge_certificate import state_difference
from tunewright.engines.mlx.attention import head_logits, hidden_states
from tunewright.engines.mlx.load import BaseModel, load_model
from tunewright.engines.mlx.precision import DTYPES
from tunewright.engines.protocol import EngineSpec

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def log_probs(base: BaseModel, rows: Sequence[NDArray[np.int64]], precision: str) -> NDArray[np.float32]:
    """Log-probability (nats) of each row's tokens but the first, one after the other."""
    parts: list[NDArray[np.float32]] = []
    with _computing_in(base, DTYPES[precision]):
        for row in rows:
            tokens_1N = mx.array(row.astype(np.int32))[None]
            logits_SV = head_logits(base, hidden_states(base, tokens_1N)[0, :-1]).astype(mx.float32)
            chosen_S = mx.take_along_axis(logits_SV, tokens_1N[0, 1:, None], axis=-1)[:, 0]
            parts.append(np.array(chosen_S - mx.logsumexp(logits_SV, axis=-1)))
    return np.concatenate(parts)


def certify_merge(
    folder: Path, reference: NDArray[np.float32], rows: Sequence[NDArray[np.int64]], spec: EngineSpec
) -> Mapping[str, object]:
    """Load the written model and compare with `reference`. Raises EngineError beyond the bound."""
    merged = load_model(folder, dtype=DTYPES[spec.dtype])
    measured = _root_mean_square(log_probs(merged, rows, spec.precision) - reference)
    bound = 4 * _root_mean_square(log_probs(merged, rows, "fp32") - log_probs(merged, rows, "bf16"))
    return state_difference(folder, measured=measured, bound=bound, rows=len(rows), tokens=len(reference))


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(values).mean()))


@contextmanager
def _computing_in(base: BaseModel, dtype: mx.Dtype) -> Iterator[None]:
    """All floating weights in `dtype` inside, as they were afterwards."""
    held: dict[str, Any] = dict(tree_flatten(base.module.parameters()))
    cast = {
        name: values.astype(dtype)
        for name, values in held.items()
        if values.dtype in _FLOATS and values.dtype != dtype
    }
    _install(base, cast)
    try:
        yield
    finally:
        _install(base, {name: held[name] for name in cast})


def _install(base: BaseModel, values: Mapping[str, mx.array]) -> None:
    tree: Any = tree_unflatten(list(values.items()))
    base.module.update(tree)
