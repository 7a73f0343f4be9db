"""AdamW against PyTorch's own, and steps that must leave no trace."""

import math

import pytest
import torch
from torch import nn

from tunewright.engines.torch import optimizer as subject
from tunewright.engines.torch.optimizer import AdamW
from tunewright.engines.torch.precision import LossScale

CPU = torch.device("cpu")


def _parameters():
    torch.manual_seed(0)
    return [("matrix", nn.Parameter(torch.randn(3, 5))), ("norm", nn.Parameter(torch.randn(5)))]


def _build(named, **changes):
    settings = {"betas": (0.9, 0.99), "epsilon": 1e-8, "weight_decay": 0.1, "max_norm": 1.0, "device": CPU}
    return AdamW(named, **{**settings, **changes})


def _gradients(named, seed, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    for _, parameter in named:
        parameter.grad = scale * torch.randn(parameter.shape, generator=draw)


def _bits(optimizer):
    state = [optimizer.count.clone()]
    for slot in optimizer.slots.values():
        state += [slot.parameter.detach().clone(), slot.first.clone(), slot.second.clone()]
    return state


@pytest.fixture(params=["fused", "select"])
def both_ways(request, monkeypatch):
    """The fused kernel, and the plain operations that other devices use."""
    if request.param == "select":
        monkeypatch.setattr(subject, "_FUSED", ())


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_equals_pytorch(max_norm):
    ours, theirs = _parameters(), _parameters()
    optimizer = _build(ours, max_norm=max_norm)
    reference = torch.optim.AdamW(
        [{"params": [theirs[0][1]], "weight_decay": 0.1}, {"params": [theirs[1][1]], "weight_decay": 0.0}],
        betas=(0.9, 0.99),
    )
    for step in range(5):
        _gradients(ours, step)
        _gradients(theirs, step)
        lr = 0.1 / (step + 1)
        outcome = optimizer.step(lr=lr, skip_above=None, scale=None)
        norm = nn.utils.clip_grad_norm_([p for _, p in theirs], max_norm or math.inf)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        assert outcome.norm.item() == pytest.approx(norm.item())
        assert not outcome.skipped
        for (_, a), (_, b) in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            assert a.grad is None


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(("poison", "skip_above"), [(math.nan, None), (math.inf, 5.0), (1e3, 5.0)])
def test_skipped_step_leaves_every_bit(poison, skip_above):
    named = _parameters()
    optimizer = _build(named)
    _gradients(named, 0)
    optimizer.step(lr=0.1, skip_above=None, scale=None)
    before = _bits(optimizer)
    _gradients(named, 1)
    named[0][1].grad[0, 0] = poison
    outcome = optimizer.step(lr=0.1, skip_above=skip_above, scale=None)
    assert outcome.skipped
    for old, new in zip(before, _bits(optimizer), strict=True):
        assert torch.equal(old.view(torch.int32), new.view(torch.int32))
    assert all(parameter.grad is None for _, parameter in named)


@pytest.mark.usefixtures("both_ways")
def test_loss_scale_cancels_out_and_overflow_halves_it():
    plain, scaled = _parameters(), _parameters()
    scale = LossScale(torch.tensor(1024.0), torch.tensor(0))
    one, two = _build(plain), _build(scaled)
    _gradients(plain, 3)
    _gradients(scaled, 3, scale=1024.0)
    a = one.step(lr=0.1, skip_above=None, scale=None)
    b = two.step(lr=0.1, skip_above=None, scale=scale)
    assert a.norm.item() == pytest.approx(b.norm.item())
    torch.testing.assert_close(plain[0][1], scaled[0][1])
    _gradients(scaled, 4, scale=math.inf)
    assert two.step(lr=0.1, skip_above=None, scale=scale).skipped
    assert scale.scale.item() == 512


def test_parameter_without_gradient_is_left_alone():
    named = _parameters()
    optimizer = _build(named)
    before = named[1][1].detach().clone()
    named[0][1].grad = torch.ones(3, 5)
    optimizer.step(lr=0.1, skip_above=None, scale=None)
    assert torch.equal(named[1][1], before)


def test_step_without_any_gradient():
    outcome = _build(_parameters()).step(lr=0.1, skip_above=None, scale=None)
    assert outcome.norm.item() == 0


def test_norms_and_biases_do_not_decay():
    named = _parameters()
    optimizer = _build(named)
    before = [parameter.detach().clone() for _, parameter in named]
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(lr=0.5, skip_above=None, scale=None)
    torch.testing.assert_close(named[0][1], before[0] * (1 - 0.5 * 0.1))
    assert torch.equal(named[1][1], before[1])
