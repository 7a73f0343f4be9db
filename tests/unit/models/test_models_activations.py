"""Kept bytes against the arrays that the engine really saves for its backward pass."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from engine_cases import build_spec, draw_documents, lay_out
from families import make_family
from tunewright.config.schema import AdapterConfig
from tunewright.engines.registry import build_engine
from tunewright.engines.torch.fast.build import decoder_layers, replace_layer
from tunewright.engines.torch.fast.elementwise import EAGER
from tunewright.engines.torch.load import load_model, set_attention
from tunewright.engines.torch.lora import add_adapter
from tunewright.engines.torch.loss import batch_loss, to_device
from tunewright.engines.torch.varlen import VARLEN_NAME
from tunewright.models.activations import Pass, kept_bytes, layer_bytes
from tunewright.models.arch import load_arch
from tunewright.models.footprint import count_trained

TOKENS = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_family("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "adapter",
    [{}, {"dropout": 0.1}, {"targets": ("q_proj", "v_proj")}, {"kind": "none"}],
    ids=["lora", "dropout", "two targets", "full"],
)
def test_kept_bytes_are_those_that_autograd_holds(folder, adapter, precision):
    config = AdapterConfig(**{"rank": 4, "alpha": 8, **adapter})
    dtype = "fp32" if config.kind == "none" else precision
    spec = build_spec(folder, adapter=config, dtype=dtype, precision=precision)
    arch = load_arch(folder)
    trained = count_trained(arch, config)
    one = Pass(TOKENS, 0, precision, config.dropout > 0, kind="cpu", checkpointed=0)
    # One document of 256 tokens and few label rows; copies of weights and the loss are not activations.
    # The same over half the tokens leaves only what grows with them.
    held = _saved_bytes(spec, TOKENS) - _saved_bytes(spec, TOKENS // 2)
    # The first norm of a frozen base needs no gradient, nor do masks on it: a part of the first of 3 layers.
    assert 2 * held == pytest.approx(kept_bytes(arch, trained, one), rel=0.06)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3"])
def test_further_norms_and_scores_that_are_kept_count(family, attention, precision, tmp_path):
    """Norms of heads, four norms a block, and attention under a soft cap, half of it in windows."""
    family_folder = make_family(family, tmp_path / family)
    spec = build_spec(family_folder, adapter={"rank": 4}, dtype=precision, precision=precision)
    spec = replace(spec, attention=attention)
    arch = load_arch(family_folder)
    trained = count_trained(arch, AdapterConfig(rank=4))

    def expected(tokens):
        one = Pass(tokens, 0, precision, dropout=False, kind="cpu", checkpointed=0)
        eager = {"eager_row": tokens} if attention == "eager" else {}
        capped = {"capped_document": tokens} if arch.attention_soft_cap else {}
        return kept_bytes(arch, trained, replace(one, **eager, **capped))

    held = _saved_bytes(spec, TOKENS) - _saved_bytes(spec, TOKENS // 2)
    assert held == pytest.approx(expected(TOKENS) - expected(TOKENS // 2), rel=0.10)


def test_a_checkpointed_pass_keeps_one_array_a_layer_and_the_last_norm(folder):
    arch = load_arch(folder)
    trained = count_trained(arch, AdapterConfig())
    one = Pass(TOKENS, 0, "fp32", dropout=False, kind="cpu", checkpointed=arch.layers)
    assert kept_bytes(arch, trained, one) == TOKENS * (arch.layers + 1) * arch.hidden_size * 4


def test_less_is_kept_for_16_bits_fewer_targets_and_no_dropout(folder):
    arch = load_arch(folder)
    one = Pass(TOKENS, 0, "fp32", dropout=False, kind="cpu", checkpointed=0)
    lora = layer_bytes(arch, count_trained(arch, AdapterConfig(rank=4)), one)
    some = layer_bytes(arch, count_trained(arch, AdapterConfig(rank=4, targets=("q_proj",))), one)
    assert some < lora < layer_bytes(arch, count_trained(arch, AdapterConfig(kind="none")), one)
    on_gpu = replace(one, dropout=True, kind="cuda")
    trained = count_trained(arch, AdapterConfig(rank=4))
    assert lora < layer_bytes(arch, trained, on_gpu) < layer_bytes(arch, trained, replace(one, dropout=True))
    assert layer_bytes(arch, trained, replace(one, precision="bf16")) < lora
    assert layer_bytes(arch, trained, replace(one, eager_row=100)) == lora + arch.heads * 100 * 4


def _saved_bytes(spec, tokens):
    """Bytes of all arrays saved in one forward pass whose first axes run over the tokens."""
    engine = build_engine("torch", spec)
    document = draw_documents([tokens])[0]
    document[1][:-1] = 0
    document[1][-1] = 1
    held: dict[int, torch.Tensor] = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.forward_backward([lay_out([[document]])], denominator=1.0)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_fast_layers_under_a_flash_kernel_keep_what_is_planned(family, tmp_path, monkeypatch):
    # The meta device takes every branch that is not the CPU's, and the kernel tells it the shapes it keeps.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    folder = make_family(family, tmp_path / family)
    arch, config = load_arch(folder), AdapterConfig(rank=4, alpha=8)
    model = load_model(folder, dtype=torch.bfloat16, device=torch.device("cpu"))
    set_attention(model, VARLEN_NAME)
    add_adapter(model, config, 0)
    model.to("meta")
    for number in range(len(decoder_layers(model))):
        replace_layer(model, number, EAGER)
    one = Pass(TOKENS, 0, "bf16", dropout=False, kind="cuda", checkpointed=0, fast_document=TOKENS)
    held = _saved_on_meta(model, TOKENS) - _saved_on_meta(model, TOKENS // 2)
    # The loss keeps a gradient of each label row beside what the layers keep.
    planned = kept_bytes(arch, count_trained(arch, config), one) + 2 * TOKENS * arch.hidden_size
    assert 2 * held == pytest.approx(planned, rel=0.06)


def _saved_on_meta(model, tokens):
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage._cdata] = (storage, storage.nbytes())
        return tensor

    document = draw_documents([tokens])[0]
    document[1][:] = 1
    batch = to_device(lay_out([[document]]), torch.device("meta"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        batch_loss(model, batch, by_rows=True).loss.backward()
    return sum(size for _, size in saved.values())
