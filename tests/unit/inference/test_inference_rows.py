"""Products of few rows, turned around, are the same products."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tunewright.inference import torch_rows
from tunewright.inference.torch_rows import (
    LEAST_WEIGHTS,
    MOST_ROWS,
    FewRowsLinear,
    find_fitting,
    use_few_rows,
)


@pytest.mark.parametrize("rows", range(MOST_ROWS + 3))
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_every_number_of_rows_gives_the_product(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    layer = FewRowsLinear(48, 80, bias=bias).requires_grad_(False)
    for shape in ((rows, 48), (rows, 1, 48), (1, rows, 48)):
        inputs = torch.randn(shape)
        found = layer(inputs)
        expected = F.linear(inputs, layer.weight, layer.bias)
        assert found.shape == expected.shape
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    layer = FewRowsLinear(64, 32).requires_grad_(False)
    rows_RK = torch.randn(MOST_ROWS, 64)
    alone = torch.cat([layer(row) for row in rows_RK[:, None]])
    for count in range(1, MOST_ROWS + 1):
        torch.testing.assert_close(layer(rows_RK[:count]), alone[:count], rtol=1e-5, atol=1e-5)


def test_only_plain_fp32_layers_on_a_cpu_are_turned() -> None:
    class Own(nn.Linear):
        pass

    size = (256, LEAST_WEIGHTS // 256)
    layers = [nn.Linear(*size), nn.Linear(*size).bfloat16(), Own(*size), nn.Linear(*size, device="meta")]
    layers.append(nn.Linear(256, LEAST_WEIGHTS // 256 - 1))
    model = nn.ModuleList(layers)
    assert find_fitting(model) == layers[:1]
    use_few_rows(model)
    turned = FewRowsLinear if torch_rows._gains() else nn.Linear
    kinds = [turned, nn.Linear, Own, nn.Linear, nn.Linear]
    assert [type(layer) for layer in model] == kinds
    # Adapters go on a copy of the base that shares its weights.
    assert [type(layer) for layer in copy.deepcopy(model)] == kinds


def test_the_machine_is_asked_once() -> None:
    torch_rows._gains.cache_clear()
    first = torch_rows._gains()
    assert torch_rows._gains() is first
    assert torch_rows._gains.cache_info().hits == 1
