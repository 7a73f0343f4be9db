"""The numbers that must never move, on the PyTorch engine (architecture.md section 4).

Tolerances: fp32 sums in another order differ by about 1e-6 relative; 1e-5 leaves room for three or four
layers and still sees one wrong token in a thousand.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import FAMILIES
from tunewright.engines.torch.engine import build_engine

LENGTHS = [5, 41, 2, 17, 17, 9]  # one document of more than two windows of 16
pytestmark = pytest.mark.usefixtures("one_thread")


def _train(engine, steps_of_micro_batches, documents, lr=1e-2):
    stats = []
    for micro_batches in steps_of_micro_batches:
        engine.forward_backward(micro_batches, denominator=total_weight(documents))
        stats.append(engine.optim_step(lr=lr, skip_above=None).read())
    return stats


def _close(a, b, rel=1e-5):
    for x, y in zip(a, b, strict=True):
        assert x.sums.loss == pytest.approx(y.sums.loss, rel=rel)
        assert x.gradient_norm == pytest.approx(y.gradient_norm, rel=rel)
        assert x.sums.weight == y.sums.weight
        assert x.sums.tokens == y.sums.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_equals_alone(family, family_folder):
    spec = build_spec(family_folder(family))
    documents = draw_documents(LENGTHS)
    packed = [lay_out([documents[:3], documents[3:]], width=60)]
    padded = [lay_out([[document] for document in documents])]
    alone = [lay_out([[document]]) for document in documents]
    runs = [_train(build_engine(spec), [batches] * 3, documents) for batches in (packed, padded, alone)]
    _close(runs[0], runs[1])
    _close(runs[0], runs[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_document_attention_equals_dense_mask(family, family_folder):
    documents = draw_documents(LENGTHS)
    batches = [[lay_out([documents[:3], documents[3:]], width=60)]] * 3
    runs = [
        _train(build_engine(build_spec(family_folder(family), attention=attention)), batches, documents)
        for attention in ("sdpa", "eager")
    ]
    _close(*runs)


def test_accumulation_equals_one_batch(family_folder):
    spec = build_spec(family_folder("qwen2"))
    documents = draw_documents(LENGTHS)
    one = [lay_out([[document] for document in documents])]
    three = [lay_out([[d] for d in documents[i : i + 2]]) for i in (0, 2, 4)]
    _close(
        _train(build_engine(spec), [one] * 4, documents),
        _train(build_engine(spec), [three] * 4, documents),
    )


def test_two_calls_add_up_to_one(family_folder):
    spec = build_spec(family_folder("llama"))
    documents = draw_documents([9, 12])
    halves = [lay_out([[document]]) for document in documents]
    together, apart = build_engine(spec), build_engine(spec)
    together.forward_backward(halves, denominator=total_weight(documents))
    for half in halves:
        apart.forward_backward([half], denominator=total_weight(documents))
    _close(
        [together.optim_step(lr=0.1, skip_above=None).read()],
        [apart.optim_step(lr=0.1, skip_above=None).read()],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_start_equal_hugging_face(family, family_folder):
    """LoRA at start is the base, and the loss is the library's own on its own eager attention."""
    folder = family_folder(family)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens, weights = draw_documents([41])[0]
    weights = (weights > 0).astype(np.float32)
    labels = torch.from_numpy(np.where(weights > 0, tokens, -100).astype(np.int64))[None]
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None], labels=labels).loss.item()
    sums = build_engine(build_spec(folder)).evaluate(lay_out([[(tokens, weights)]], width=50))
    assert sums.loss / sums.weight == pytest.approx(expected, rel=1e-5)


def test_lora_start_leaves_base_bitwise(family_folder):
    folder = family_folder("qwen3")
    batch = lay_out([draw_documents([20])])
    losses = [
        build_engine(build_spec(folder, adapter={"kind": kind})).evaluate(batch).loss
        for kind in ("lora", "none")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_activation_checkpointing_changes_nothing(family, family_folder):
    documents = draw_documents(LENGTHS)
    batches = [[lay_out([documents[:3], documents[3:]])]] * 4
    runs = [
        _train(
            build_engine(
                build_spec(family_folder(family), activation_checkpointing=on, adapter={"dropout": 0.2})
            ),
            batches,
            documents,
        )
        for on in (False, True)
    ]
    _close(*runs, rel=1e-6)


@pytest.mark.parametrize("adapter", [{"dropout": 0.3}, {"kind": "none"}])
def test_restored_run_equals_uninterrupted_bitwise(adapter, family_folder):
    spec = build_spec(family_folder("qwen2"), adapter=adapter)
    documents = draw_documents(LENGTHS)
    batches = [[lay_out([documents[:3]]), lay_out([documents[3:]])]]
    whole = build_engine(spec)
    _train(whole, batches * 3, documents)
    state = whole.snapshot()
    expected = _train(whole, batches * 3, documents)
    resumed = build_engine(spec)
    resumed.restore(state)
    assert _train(resumed, batches * 3, documents) == expected
    first, second = whole.snapshot(), resumed.snapshot()
    assert first.values == second.values
    assert {n: bytes(a.data) for n, a in first.arrays.items()} == {
        n: bytes(a.data) for n, a in second.arrays.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_bf16_stays_near_fp32(family, dtype, family_folder):
    """bf16 keeps 8 bits: single products are off by up to 0.4 %, a mean over many by far less."""
    batch = lay_out([draw_documents([60, 41])])
    folder = family_folder(family)
    exact = build_engine(build_spec(folder)).evaluate(batch)
    rounded = build_engine(build_spec(folder, dtype=dtype, precision="bf16")).evaluate(batch)
    assert rounded.loss == pytest.approx(exact.loss, rel=2e-2)
    assert rounded.loss != exact.loss
