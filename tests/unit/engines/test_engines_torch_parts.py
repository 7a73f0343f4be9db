"""Arrays, random state and precision of the PyTorch engine."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunewright.engines.torch.arrays import to_array, to_tensor
from tunewright.engines.torch.precision import LossScale, build_loss_scale, check_precision, compute_in
from tunewright.engines.torch.rng import RandomState
from tunewright.errors import EngineError

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3))
def test_arrays_round_trip(dtype, shape):
    tensor = (torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape) - 2).to(dtype)
    array = to_array(tensor)
    back = to_tensor(array)
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_array_is_a_copy():
    tensor = torch.ones(3)
    array = to_array(tensor)
    tensor.zero_()
    assert to_tensor(array).tolist() == [1, 1, 1]


def test_random_state_is_the_engines_own():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    state = RandomState(5, CPU)
    with state.active():
        first = torch.rand(3)
    with state.active():
        second = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    assert not torch.equal(first, second)
    again = RandomState(5, CPU)
    with again.active():
        assert torch.equal(torch.rand(6), torch.cat([first, second]))


def test_exception_rewinds_random_state():
    state = RandomState(5, CPU)
    before = state.states["cpu"].clone()
    with pytest.raises(RuntimeError, match="shape"), state.active():
        torch.rand(3).reshape(2, 2)
    assert torch.equal(state.states["cpu"], before)


@pytest.mark.parametrize(("dtype", "precision"), [("fp32", "bf16"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_precisions_that_go_together(dtype, precision):
    check_precision(dtype, precision, CPU)


@pytest.mark.parametrize(
    ("dtype", "precision", "code"),
    [
        ("bf16", "fp32", "engine.dtype-mismatch"),
        ("fp16", "bf16", "engine.dtype-mismatch"),
        ("fp8", "fp32", "engine.unknown-dtype"),
        ("fp32", "int8", "engine.unknown-dtype"),
    ],
)
def test_precisions_that_do_not(dtype, precision, code):
    with pytest.raises(EngineError) as caught:
        check_precision(dtype, precision, CPU)
    assert caught.value.code == code


def test_gpu_without_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(EngineError, match="fp16"):
        check_precision("fp32", "bf16", torch.device("cuda:0"))


def test_compute_type():
    a = torch.ones(2, 2)
    with compute_in("bf16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    with compute_in("fp32", CPU):
        assert (a @ a).dtype == torch.float32


def test_loss_scale_halves_and_doubles():
    assert build_loss_scale("bf16", CPU) is None
    assert build_loss_scale("fp16", CPU).scale.item() == 2**16
    scale = LossScale(torch.tensor(8.0), torch.tensor(0), interval=2)
    seen = []
    for overflow in (True, False, False, False, True, False, False):
        scale.update(torch.tensor(overflow))
        seen.append((scale.scale.item(), scale.clean_steps.item()))
    assert seen == [(4, 0), (4, 1), (8, 0), (8, 1), (4, 0), (4, 1), (8, 0)]


def test_loss_scale_says_when_it_is_lower():
    scale, overflow = LossScale(torch.tensor(2.0), torch.tensor(0)), torch.tensor(True)
    assert not scale.update(~overflow)
    assert scale.update(overflow)
    assert not scale.update(overflow), "it never goes below 1: the overflow is the model's own"
