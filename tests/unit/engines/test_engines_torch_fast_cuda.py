"""The flash kernel for documents of all lengths: where each begins, what it refuses, and on a GPU, what it
computes. The GPU tests skip by name elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import make_family
from tunewright.engines.torch.attention_call import Rule, UnsupportedAttentionError
from tunewright.engines.torch.device import Fetch
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.engine import build_engine
from tunewright.engines.torch.varlen import attend_varlen, has_varlen, varlen_attention

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
HALF = {"dtype": "bf16", "precision": "bf16", "device": "cuda", "attention": "auto"}


def test_sequences_cover_documents_and_padding() -> None:
    sequences = Documents(((5, 3), (70,))).sequences(150, CPU)
    pieces = sequences.starts.diff().tolist()
    assert pieces == [5, 3, 64, 64, 14, 70, 64, 16]
    assert sequences.starts.dtype == torch.int32
    assert (sequences.starts[0].item(), sequences.starts[-1].item(), sequences.longest) == (0, 300, 70)


def test_full_rows_have_no_padding() -> None:
    assert Documents(((4, 4), (8,))).sequences(8, CPU).starts.tolist() == [0, 4, 8, 16]


def test_a_cpu_has_no_such_kernel() -> None:
    assert not has_varlen(CPU, "bf16")


def test_the_kernel_of_torch_2_11_is_used_without_the_flag_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        seen.update(max_q=max_q, window_size=window_size)
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert has_varlen(torch.device("cuda:0"), "bf16")
    q, k = torch.zeros(8, 4, 16), torch.zeros(8, 2, 16)
    attend_varlen(q, k, k, Documents(((5, 3),)).sequences(8, CPU), None, 4)
    assert seen == {"max_q": 5, "window_size": (3, 0)}


@pytest.mark.parametrize("rule", [Rule(None, dropout=0.1), Rule(None, softcap=30.0)])
def test_what_the_kernel_cannot_do_is_refused(rule: Rule) -> None:
    q = torch.zeros(1, 2, 8, 16)
    with pytest.raises(UnsupportedAttentionError):
        varlen_attention(q, q, q, Documents(((8,),)), rule)


def _train(folder: Path, **changes: Any) -> tuple[Any, list[float]]:
    documents = draw_documents([5, 41, 2, 17, 17, 9])
    batch = lay_out([documents[:2], documents[2:]])
    engine = build_engine(build_spec(folder, **{**HALF, **changes}))
    losses = []
    for _ in range(5):
        engine.forward_backward([batch], denominator=total_weight(documents))
        sums = engine.optim_step(lr=5e-3, skip_above=None).read().sums
        losses.append(sums.loss / sums.weight)
    return engine.facts, losses


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("window", [None, 16])
def test_flash_equals_sdpa_by_document(window: int | None) -> None:
    lengths, row = ((40, 7, 1), (48,)), 48
    draw = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, row, 64, device="cuda", dtype=torch.bfloat16, generator=draw)
        for heads in (4, 2, 2)
    )
    documents = Documents(lengths)
    ours = varlen_attention(q, k, v, documents, Rule(0.125, window))
    start = 0
    for length in lengths[0]:
        at = slice(start, start + length)
        steps = torch.arange(length, device="cuda")
        seen = steps <= steps[:, None]
        if window is not None:
            seen &= steps > steps[:, None] - window
        expected = torch.nn.functional.scaled_dot_product_attention(
            q[:1, :, at].float(), k[:1, :, at].float(), v[:1, :, at].float(),
            attn_mask=seen, scale=0.125, enable_gqa=True,
        )  # fmt: skip
        torch.testing.assert_close(ours[:1, at].float(), expected.transpose(1, 2), rtol=2e-2, atol=2e-2)
        start += length


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma"])
def test_compiled_and_fast_losses_on_a_gpu_stay_at_the_plain_ones(family: str, tmp_path: Path) -> None:
    folder = make_family(family, tmp_path / family)
    facts, plain = _train(folder, kernels="plain")
    assert facts.attention.startswith("varlen")
    for kernels in ("fast", "auto"):
        facts, losses = _train(folder, kernels=kernels)
        assert facts.kernels == ("fast" if kernels == "fast" else "compiled"), facts.path
        assert losses == pytest.approx(plain, rel=2e-2)


@pytest.mark.gpu
@needs_gpu
def test_gradients_go_through_the_kernel() -> None:
    x = torch.randn(20, 2, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    sequences = Documents(((12, 8),)).sequences(20, x.device)
    attend_varlen(x, x, x, sequences, None, None)[12:].sum().backward()
    assert x.grad is not None
    assert float(x.grad[:12].abs().max()) == 0
    assert float(x.grad[12:].abs().max()) > 0


@pytest.mark.gpu
@needs_gpu
def test_what_is_fetched_waits_for_no_later_work() -> None:
    fetch = Fetch(torch.ones(2, device="cuda"))
    torch.cuda._sleep(2_000_000_000)
    assert fetch.read()[0].tolist() == [1, 1]
    assert not torch.cuda.current_stream().query()
