"""Document attention against a dense mask, and the start-up check that must catch what it gets wrong."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM

from families import make_family
from real_model_folder import REAL_MODEL, needs_real_model
from tunewright.engines.torch import (
    attention,
    attention_call,
    attention_check,
    attention_choice,
    varlen,
    windows,
)
from tunewright.engines.torch.attention import ATTENTION_NAME, document_attention
from tunewright.engines.torch.attention_call import Rule, UnsupportedAttentionError
from tunewright.engines.torch.attention_check import AttentionCheck
from tunewright.engines.torch.attention_choice import Attention, choose_attention
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.load import load_model
from tunewright.engines.torch.quantized_load import PackOnLoad
from tunewright.engines.torch.varlen import VARLEN_NAME
from tunewright.errors import EngineError
from tunewright.models.resolve import resolve_model


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    folder = make_family("mistral", tmp_path_factory.mktemp("m") / "mistral")
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def _dense(query, key, value, lengths, window, softcap):
    """One row in float64 by the definition: [H, T, D]."""
    group = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    owner = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    total = len(owner)
    at = torch.arange(total)
    seen = (owner[:, None] == owner) & (at[:, None] >= at)
    if window:
        seen &= at[:, None] - at < window
    scores = query[:, :total].double() @ key[:, :total].double().mT * 0.3
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    out = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value[:, :total].double()
    return nn.functional.pad(out, (0, 0, 0, query.shape[1] - total))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    padding=st.integers(0, 3),
    window=st.sampled_from([None, 1, 3, 4]),
    softcap=st.sampled_from([None, 2.0]),
    heads=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
)
def test_equals_dense_mask(rows, padding, window, softcap, heads):
    width = max(map(sum, rows)) + padding
    draw = torch.Generator().manual_seed(width)
    query, key, value = (
        torch.randn(len(rows), count, width, 8, generator=draw) for count in (heads[0], heads[1], heads[1])
    )
    documents = Documents(tuple(map(tuple, rows)))
    out = document_attention(query, key, value, documents, Rule(0.3, window, softcap))
    assert out.shape == (len(rows), width, heads[0], 8)
    for b, lengths in enumerate(rows):
        expected = _dense(query[b], key[b], value[b], lengths, window, softcap)
        torch.testing.assert_close(out[b].transpose(0, 1).double(), expected, rtol=1e-5, atol=1e-5)


def test_row_of_padding_only():
    x = torch.randn(2, 2, 4, 8)
    out = document_attention(x, x, x, Documents(((4,), ())), Rule(None))
    assert not out[1].any()


def test_dropout_of_the_model_is_applied():
    x = torch.randn(1, 2, 6, 8)
    for softcap in (None, 5.0):
        run = lambda p, cap=softcap: document_attention(  # noqa: E731
            x, x, x, Documents(((6,),)), Rule(None, softcap=cap, dropout=p)
        )
        assert not torch.equal(run(0.9), run(0.0))


def test_what_a_model_asks_for_reaches_the_function():
    x = torch.randn(1, 2, 6, 8)
    documents = Documents(((6,),))
    call = AttentionInterface()[ATTENTION_NAME]
    out, probabilities = call(
        nn.Module(), x, x, x, None, scaling=0.3, documents=documents, sliding_window=2, softcap=1.5
    )
    assert probabilities is None
    assert torch.equal(out, document_attention(x, x, x, documents, Rule(0.3, 2, 1.5)))
    assert not torch.equal(call(nn.Module(), x, x, x, None, dropout=0.9, documents=documents)[0], out)


@pytest.mark.parametrize("name", [ATTENTION_NAME, VARLEN_NAME])
@pytest.mark.parametrize(
    ("mask", "extra", "reason"),
    [
        (None, {"documents": None}, "layout"),
        (torch.ones(1), {}, "mask of its own"),
        (None, {"s_aux": torch.ones(2)}, "s_aux"),
        (None, {"is_causal": False}, "both directions"),
    ],
)
def test_refuses_what_no_attention_over_documents_does(name, mask, extra, reason):
    x = torch.randn(1, 2, 4, 8)
    call = AttentionInterface()[name]
    with pytest.raises(UnsupportedAttentionError, match=reason):
        call(nn.Module(), x, x, x, mask, **{"documents": Documents(((4,),)), **extra})


@pytest.mark.parametrize("name", [ATTENTION_NAME, VARLEN_NAME])
def test_refuses_attention_in_both_directions(name):
    module = nn.Module()
    module.is_causal = False
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises(UnsupportedAttentionError, match="both directions"):
        AttentionInterface()[name](module, x, x, x, None, documents=Documents(((4,),)))


def test_check_passes_and_leaves_the_model(mistral):
    assert AttentionCheck(mistral, "fp32").fault(ATTENTION_NAME) is None
    assert mistral.config._attn_implementation == "eager"
    assert choose_attention(mistral, "auto", "fp32") == Attention("sdpa")
    assert choose_attention(mistral, "eager", "fp32") == Attention("eager")


def test_wide_windows_are_narrowed_for_the_check_only(mistral):
    mistral.config.sliding_window = 4096
    try:
        with windows.narrow_windows(mistral):
            assert mistral.config.sliding_window == 16
        assert mistral.config.sliding_window == 4096
        assert AttentionCheck(mistral, "fp32").fault(ATTENTION_NAME) is None
    finally:
        mistral.config.sliding_window = 16


def test_check_sees_a_forgotten_window(mistral, monkeypatch):
    real = attention._attend
    no_window = lambda q, k, v, rule: real(q, k, v, Rule(rule.scale))  # noqa: E731
    monkeypatch.setattr(attention, "_attend", no_window)
    assert "differ" in AttentionCheck(mistral, "fp32").fault(ATTENTION_NAME)
    assert "differ" in AttentionCheck(mistral, "bf16").fault(ATTENTION_NAME)
    assert choose_attention(mistral, "auto", "fp32").name.startswith("eager (logits differ by ")
    with pytest.raises(EngineError, match="document alone") as caught:
        choose_attention(mistral, "sdpa", "fp32")
    assert caught.value.code == "engine.attention-mismatch"


def test_a_single_logit_that_rounds_elsewhere_is_no_fault():
    """`builtin:tiny` packed to nf4: one logit is off by 6 % in bf16, its documents by less than 2 %."""
    folder, device = resolve_model("builtin:tiny", None).folder, torch.device("cpu")
    packing = PackOnLoad(device, torch.bfloat16)
    model = load_model(folder, dtype=torch.bfloat16, device=device, pack=packing)
    assert choose_attention(model, "auto", "bf16") == Attention("sdpa")
    assert choose_attention(model, "sdpa", "bf16") == Attention("sdpa")


@pytest.mark.parametrize("number", [0, 1])
def test_logits_that_are_no_numbers_are_a_fault(number):
    right = [torch.ones(2, 3)] * 6
    wrong = [logits / 0 * 0 if at == number else logits for at, logits in enumerate(right)]
    assert "differ" in attention_check.compare(right, wrong, wrong, tolerance=5e-2, leak_tolerance=5e-3)


@pytest.mark.parametrize(
    ("at", "fault"), [(0, None), (1, "a token moves"), (2, "one document"), (4, "one document"), (5, None)]
)
def test_check_sees_a_leak(at: int, fault: str | None):
    packed = [torch.ones(2, 3)] * 6
    moved = [*packed]
    moved[at] = packed[at] + 0.01
    found = attention_check.compare(packed, packed, moved, tolerance=1e-2, leak_tolerance=1e-3)
    assert found is None if fault is None else fault in found


def test_check_reports_what_the_model_asks_for(mistral, monkeypatch):
    def refuse(*args, **kwargs):
        raise UnsupportedAttentionError("the model asks for sinks")

    monkeypatch.setattr(attention_call, "_check_supported", refuse)
    assert AttentionCheck(mistral, "fp32").fault(ATTENTION_NAME) == "the model asks for sinks"


@needs_real_model
def test_a_trained_model_in_bf16_keeps_packed_rows_on_random_tokens_and_on_text():
    """Its own forward moves as far when a document has padding behind it."""
    model = load_model(REAL_MODEL, dtype=torch.bfloat16, device=torch.device("cpu"))
    tokenizer = Tokenizer.from_file(str(REAL_MODEL / "tokenizer.json"))
    text = (
        "Once upon a time a stranger came to a village in the mountains and asked for water and bread. " * 3
    )
    rows = [np.array(tokenizer.encode(text[at:]).ids, dtype=np.int32) for at in (0, 31, 52)]
    for sample in ((), rows):
        check = AttentionCheck(model, "bf16", sample)
        assert check.fault(ATTENTION_NAME) is None
        assert 0.05 <= check._tolerance <= 0.15
    real = attention._attend
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_attend", lambda q, k, v, rule: real(q, k, v, Rule(q.shape[-1] ** -0.4)))
        assert "differ" in check.fault(ATTENTION_NAME)


class _NoBackward(torch.autograd.Function):
    """A flash kernel on a CPU whose backward pass this device does not have."""

    @staticmethod
    def forward(ctx, x_SHD):
        return x_SHD.clone()

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("no backward kernel\nfor this device")


@pytest.mark.parametrize(
    ("last", "fault"),
    [
        (lambda x: x, None),
        (_NoBackward.apply, "no backward kernel"),
        (lambda x: x + 0 * (x - x.detach()).abs().sqrt(), "its gradients are not finite"),
    ],
)
def test_a_flash_kernel_is_tried_backward_too(last, fault, mistral, monkeypatch):
    def kernel(query, key, value, sequences, scale, window):
        outputs = []
        for start, stop in pairwise(sequences.starts.tolist()):
            q, k, v = (x[start:stop].transpose(0, 1)[None] for x in (query, key, value))
            outputs.append(attention._attend(q, k, v, Rule(scale, window))[0].transpose(0, 1))
        return last(torch.cat(outputs))

    monkeypatch.setattr(varlen, "attend_varlen", kernel)
    assert AttentionCheck(mistral, "fp32").fault(VARLEN_NAME) == fault
    # As where FlashAttention 3 is not there: only the name of the kernel is tried.
    monkeypatch.setattr(attention_choice, "has_varlen", lambda *args: True)
    monkeypatch.setattr(attention_choice, "activate_fa3", lambda device: False)
    assert choose_attention(mistral, "auto", "fp32").name == ("varlen" if fault is None else "sdpa")


def test_where_fa3_goes_forward_only_the_kernel_of_torch_is_taken(mistral, monkeypatch):
    active = ["FA3"]
    monkeypatch.setattr(attention_choice, "has_varlen", lambda *args: True)
    monkeypatch.setattr(attention_choice, "activate_fa3", lambda device: True)
    monkeypatch.setattr(attention_choice, "restore_fa2", active.clear)
    found = lambda *args: "no backward kernel" if active else None  # noqa: E731
    monkeypatch.setattr(AttentionCheck, "fault", found)
    monkeypatch.setattr(attention_choice, "set_attention", lambda *args: None)
    assert choose_attention(mistral, "auto", "bf16") == Attention("varlen")
