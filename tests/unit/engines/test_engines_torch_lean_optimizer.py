"""8-bit and paged AdamW against the plain one. bitsandbytes computes both on a CPU; paging needs CUDA."""

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from engine_cases import build_spec
from tunewright.engines.torch.lean_optimizer import AdamW8bit, PagedAdamW, build_optimizer
from tunewright.engines.torch.optimizer import AdamW
from tunewright.engines.torch.precision import LossScale
from tunewright.errors import EngineError

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
CPU = torch.device("cpu")
LEAN = [PagedAdamW, AdamW8bit]
SETTINGS = {"betas": (0.9, 0.99), "epsilon": 1e-8, "weight_decay": 0.1, "max_norm": 1.0}


def _parameters(device="cpu", rows=96):
    draw = torch.Generator().manual_seed(0)
    shapes = {"matrix": (rows, 64), "small": (4, 5), "norm": (64,)}
    return [(name, nn.Parameter(torch.randn(s, generator=draw).to(device))) for name, s in shapes.items()]


def _run(kind, steps, *, device=CPU, rows=96, named=None, optimizer=None, start=0):
    named = named or _parameters(device, rows)
    optimizer = optimizer or kind(named, **SETTINGS, device=device)
    for step in range(start, start + steps):
        draw = torch.Generator().manual_seed(step)
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape, generator=draw).to(device)
        optimizer.step(lr=0.02, skip_above=None, scale=None)
    return named, optimizer


def _bits(optimizer):
    return {
        f"{kind}/{name}": tensor.detach().clone()
        for name, slot in optimizer.slots.items()
        for kind, tensor in slot.tensors().items()
    }


def _farthest(kind, steps, **options):
    """Largest distance of a weight from plain AdamW's, over the largest way that one went."""
    start = _parameters(rows=options.get("rows", 96))
    plain, lean = (_run(k, steps, **options)[0] for k in (AdamW, kind))
    return _distance(plain, lean) / _distance(plain, start)


def _distance(some, others):
    pairs = zip(some, others, strict=True)
    return max(float((a.detach().cpu() - b.detach().cpu()).abs().max()) for (_, a), (_, b) in pairs)


def test_the_update_of_paged_adamw_is_adamws():
    assert _farthest(PagedAdamW, 5) < 1e-5


def test_8bit_moments_stay_near_adamws():
    # 8 bits hold a moment to some percent; 3.1 % was measured.
    assert 1e-4 < _farthest(AdamW8bit, 5) < 0.2


def test_only_large_arrays_have_8bit_moments():
    _, optimizer = _run(AdamW8bit, 1)
    bits = _bits(optimizer)
    assert bits["first/matrix"].dtype == bits["second/matrix"].dtype == torch.uint8
    assert bits["first_scale/matrix"].shape == (96 * 64 // 256,)
    assert bits["first/small"].dtype == bits["first/norm"].dtype == torch.float32
    assert "first_scale/small" not in bits


@pytest.mark.parametrize("kind", LEAN)
@pytest.mark.parametrize(("gradient", "skip_above"), [(float("nan"), None), (100.0, 1.0)])
def test_a_step_left_out_leaves_no_trace(kind, gradient, skip_above):
    named, optimizer = _run(kind, 2)
    before = copy.deepcopy(_bits(optimizer))
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, gradient)
    outcome = optimizer.step(lr=0.1, skip_above=skip_above, scale=None)
    assert outcome.skipped
    assert optimizer.count == 2
    assert all(torch.equal(before[name], now) for name, now in _bits(optimizer).items())


@pytest.mark.parametrize("kind", LEAN)
def test_a_loss_scale_changes_nothing(kind):
    results = []
    for factor in (1.0, 1024.0):
        named = _parameters()
        optimizer = kind(named, **SETTINGS, device=CPU)
        draw = torch.Generator().manual_seed(1)
        for _, parameter in named:
            parameter.grad = factor * torch.randn(parameter.shape, generator=draw)
        scale = LossScale(torch.tensor(factor), torch.tensor(0)) if factor > 1 else None
        optimizer.step(lr=0.02, skip_above=None, scale=scale)
        results.append(_bits(optimizer))
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected)


@pytest.mark.parametrize("kind", LEAN)
def test_copied_state_goes_on_to_the_same_bits(kind):
    _, whole = _run(kind, 4)
    _, first = _run(kind, 2)
    named = _parameters()
    again = kind(named, **SETTINGS, device=CPU)
    with torch.no_grad():
        for slot, saved in zip(again.slots.values(), first.slots.values(), strict=True):
            for mine, theirs in zip(slot.tensors().values(), saved.tensors().values(), strict=True):
                mine.copy_(theirs)
    again.count.copy_(first.count)
    _run(kind, 2, named=named, optimizer=again, start=2)
    expected = _bits(whole)
    assert all(torch.equal(expected[name], now) for name, now in _bits(again).items())


def test_without_cuda_the_setting_to_use_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"train\.optimizer: adamw") as caught:
        build_optimizer(build_spec(tmp_path, optimizer="paged_adamw"), _parameters(), CPU)
    assert caught.value.code == "engine.unsupported-option"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: paged moments and 8-bit kernels")
@pytest.mark.parametrize(("kind", "bound"), [(PagedAdamW, 1e-5), (AdamW8bit, 0.2)])
def test_on_cuda_the_numbers_are_near_adamws(kind, bound):
    # 2,048 rows of 64: large enough for paged moments.
    assert _farthest(kind, 5, device=torch.device("cuda"), rows=2048) < bound
    _, optimizer = _run(kind, 1, device=torch.device("cuda"), rows=2048)
    assert hasattr(optimizer.slots["matrix"].first, "is_paged") is (kind is PagedAdamW)
