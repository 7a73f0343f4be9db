"""Linear layers of a CPU for the few rows of a decoding step, in about half of the time.

The library beneath torch takes up to three times as long for a product with few rows as for the same product
with few columns. It depends on the processor, so it is measured once.

R rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F

MOST_ROWS = 8
LEAST_WEIGHTS = 2**16
"""Below, the few operations more cost what is gained."""
# One and three columns take longer than two and four.
_COLUMNS = {1: 2, 3: 4}
# Larger than the cache of a core, as the weights of a model are.
_TRIED_SIZE = (4096, 2048)
_TRIED_ROWS = 2
_TRIES = 4
_WORTH_IT = 1.2


class FewRowsLinear(nn.Linear):
    """nn.Linear that turns a product of few rows around. Equal up to the order in which numbers are added."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.numel() > MOST_ROWS * self.in_features:
            return super().forward(input)
        found_RN = multiply_few(input.reshape(-1, self.in_features), self.weight)
        if self.bias is not None:
            found_RN = found_RN + self.bias
        return found_RN.reshape(*input.shape[:-1], self.out_features)


def use_few_rows(model: nn.Module) -> None:
    """Let fp32 linear layers on a CPU be quick for few rows, where this machine gains by it."""
    layers = find_fitting(model)
    if layers and _gains():
        for layer in layers:
            layer.__class__ = FewRowsLinear


def find_fitting(model: nn.Module) -> list[nn.Linear]:
    """Plain linear layers of some size, fp32, on a CPU."""
    return [module for module in model.modules() if type(module) is nn.Linear and _is_fitting(module.weight)]


def multiply_few(rows_RK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """rows · weightᵀ, [R, N]."""
    rows = len(rows_RK)
    missing = _COLUMNS.get(rows, rows) - rows
    if missing:
        rows_RK = torch.cat([rows_RK, rows_RK[:missing]])
    return (weight_NK @ rows_RK.t()).t()[:rows].contiguous()


def _is_fitting(weight: torch.Tensor) -> bool:
    is_fp32 = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_fp32 and weight.numel() >= LEAST_WEIGHTS


@cache
def _gains() -> bool:
    outputs, inputs = _TRIED_SIZE
    with torch.inference_mode():
        weight_NK, rows_RK = torch.ones(outputs, inputs), torch.ones(_TRIED_ROWS, inputs)
        usual, turned = (
            min(_seconds(product, rows_RK, weight_NK) for _ in range(_TRIES))
            for product in (F.linear, multiply_few)
        )
    return usual > _WORTH_IT * turned


def _seconds(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], rows: torch.Tensor, weight: torch.Tensor
) -> float:
    start = perf_counter()
    product(rows, weight)
    return perf_counter() - start
