"""Loss and gradients of one group of rows, as a pure function of what trains, compiled once per shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from tunewright.engines.mlx.load import BaseModel
from tunewright.engines.mlx.lora import set_dropout_key
from tunewright.engines.mlx.loss import DeviceRows, rows_loss

Arrays = Mapping[str, mx.array]


class Passes:
    """The forward pass of a model, with and without gradients, in one compute type.

    The module's own arrays are put aside during a pass: it gets those that are handed in, and keeps the
    fp32 values that train between passes.
    """

    def __init__(self, base: BaseModel, compute: mx.Dtype, *, checkpointed_layers: int) -> None:
        self._base, self._compute, self._checkpointed_layers = base, compute, checkpointed_layers
        trained = dict(tree_flatten(base.module.trainable_parameters()))
        held: dict[str, mx.array] = dict(tree_flatten(base.module.parameters()))
        # Frozen weights stored wider than they are computed with are rounded in each pass.
        self._frozen = {
            name: values for name, values in held.items() if name not in trained and self._to_cast(values)
        }
        self._differentiate = mx.compile(mx.value_and_grad(self._loss))
        self._forward = mx.compile(self._loss)

    def differentiate(
        self, trained: Arrays, rows: DeviceRows, factor: mx.array, key: mx.array | None
    ) -> tuple[mx.array, mx.array, dict[str, mx.array]]:
        """(loss, right argmaxes, gradients of factor · loss). key: of dropout; None leaves dropout off."""
        with self._put_back(trained):
            (_, loss, right), gradients = self._differentiate(trained, *_fields(rows), factor, key)
        return loss, right, gradients

    def forward(self, trained: Arrays, rows: DeviceRows) -> tuple[mx.array, mx.array]:
        """(loss, right argmaxes) without gradients or dropout."""
        with self._put_back(trained):
            _, loss, right = self._forward(trained, *_fields(rows), mx.array(1.0), None)
        return loss, right

    def _loss(
        self, trained: Arrays, tokens: mx.array, places: mx.array, labels: mx.array, weights: mx.array,
        factor: mx.array, key: mx.array | None,
    ) -> tuple[mx.array, mx.array, mx.array]:  # fmt: skip
        values = {**self._frozen, **trained}
        self._install({name: self._cast(value) for name, value in values.items()})
        set_dropout_key(self._base.module, key)
        rows = DeviceRows(tokens, places, labels, weights)
        loss, right = rows_loss(self._base, rows, checkpointed_layers=self._checkpointed_layers)
        return loss * factor, loss, right

    def _to_cast(self, values: mx.array) -> bool:
        return values.dtype != self._compute and values.dtype in (mx.float32, mx.float16, mx.bfloat16)

    def _cast(self, values: mx.array) -> mx.array:
        return values.astype(self._compute) if self._to_cast(values) else values

    def _install(self, values: Arrays) -> None:
        tree: Any = tree_unflatten(list(values.items()))
        self._base.module.update(tree)

    @contextmanager
    def _put_back(self, trained: Arrays) -> Iterator[None]:
        """Tracing leaves placeholders in the module; nothing may see those."""
        try:
            yield
        finally:
            self._install({**self._frozen, **trained})
            set_dropout_key(self._base.module, None)


def _fields(rows: DeviceRows) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    return rows.tokens_KN, rows.places_L, rows.labels_L, rows.weights_L
