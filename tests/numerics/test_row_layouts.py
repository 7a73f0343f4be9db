"""No rows are trained that the model does not compute as it computes each document alone.

The engine says which rows it takes of a model; those, and all less full ones, give the library's own loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from engine_cases import Document, build_spec, lay_out, total_weight
from families import EAGER, NOISY, STATEFUL
from reference_equalities import draw_plain, load_eager
from tunewright.config.schema import RunConfig
from tunewright.engines.torch.engine import TorchEngine, build_engine
from tunewright.errors import EngineError
from tunewright.models.arch import load_arch
from tunewright.run.engine_options import expected_layout, expects_eager
from tunewright.types import Batch, RowLayout

FolderOf = Callable[[str], Path]
DOCUMENTS = draw_plain([41, 9, 23, 30], seed=3)
PACKED = ("gptj", "codegen")
pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(layout: RowLayout) -> list[Batch]:
    if layout == "packed":
        return [lay_out([DOCUMENTS], width=128)]
    if layout == "padded":
        return [lay_out([[document] for document in DOCUMENTS], width=64)]
    return [lay_out([[document]]) for document in DOCUMENTS]


def trained_loss(engine: TorchEngine, batches: list[Batch]) -> float:
    engine.forward_backward(batches, denominator=total_weight(DOCUMENTS))
    sums = engine.optim_step(lr=0.0, skip_above=None).read().sums
    return sums.loss / sums.weight


def evaluated_loss(engine: TorchEngine, batches: list[Batch]) -> float:
    sums = [engine.evaluate(batch) for batch in batches]
    return sum(one.loss for one in sums) / sum(one.weight for one in sums)


@torch.no_grad()
def own_loss(model: PreTrainedModel, documents: list[Document]) -> float:
    """As the library computes it from labels, one document at a time."""
    loss = 0.0
    for tokens, weights in documents:
        inputs = torch.from_numpy(tokens.astype(np.int64))[None]
        labels = inputs.masked_fill(torch.from_numpy(weights == 0)[None], -100)
        loss += model(input_ids=inputs, labels=labels).loss.item() * float(weights.sum())
    return loss / total_weight(documents)


@pytest.mark.parametrize("attention", ["auto", "eager"])
@pytest.mark.parametrize("family", [*STATEFUL, *EAGER, *NOISY])
def test_every_layout_that_is_taken_has_the_librarys_loss(
    family: str, attention: str, family_folder: FolderOf
) -> None:
    folder = family_folder(family)
    adapter = {"kind": "none"} if family == "gpt2" else {"targets": ("q_proj",)} if family == "phimoe" else {}
    engine = build_engine(build_spec(folder, attention=attention, adapter=adapter))
    expected = own_loss(load_eager(folder), DOCUMENTS)
    # OPT knows packed rows by a mask alone.
    packs = family in (*PACKED, *NOISY) and (family, attention) != ("opt", "eager")
    assert engine.facts.layout == ("packed" if packs else "padded"), engine.facts.layout_reason
    assert bool(engine.facts.layout_reason) != packs
    layouts: tuple[RowLayout, ...] = get_args(RowLayout)
    for layout in layouts[layouts.index(engine.facts.layout) :]:
        batches = rows_of(layout)
        assert trained_loss(engine, batches) == pytest.approx(expected, rel=1e-5), layout
        assert evaluated_loss(engine, batches) == pytest.approx(expected, rel=1e-5), layout
    if attention == "auto":
        # As a plan counts without the weights.
        arch, config = load_arch(folder), RunConfig.model_validate({"model": "m", "data": {"train": "rows"}})
        assert expected_layout(config, arch) == engine.facts.layout
        assert expects_eager(config, arch) == engine.facts.attention.startswith("eager")
    if not packs:
        # Else the rule above would hold for a model that needs no rule.
        assert abs(evaluated_loss(engine, rows_of("packed")) / expected - 1) > 1e-5


@pytest.mark.parametrize("kind", ["lora", "none"])
@pytest.mark.parametrize("family", NOISY)
def test_the_bases_own_dropout_is_off(family: str, kind: str, family_folder: FolderOf) -> None:
    """Else a step would depend on how it is split into micro-batches."""
    # GPT-2 has one linear layer of torch, its head.
    adapter = {"kind": kind, "targets": ("lm_head",) if family == "gpt2" else ("q_proj",)}
    engine = build_engine(build_spec(family_folder(family), attention="auto", adapter=adapter))
    assert engine.facts.idle_noise == NOISY[family]
    losses = [trained_loss(engine, rows_of(layout)) for layout in ("padded", "single", "single")]
    assert losses[1] == losses[2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(evaluated_loss(engine, rows_of("padded")), rel=1e-6)


def test_the_adapters_dropout_is_on(family_folder: FolderOf) -> None:
    for kernels in ("plain", "fast"):
        adapter = {"dropout": 0.5}
        engine = build_engine(build_spec(family_folder("llama"), adapter=adapter, kernels=kernels))
        assert engine.facts.kernels == kernels
        engine.forward_backward(rows_of("padded"), denominator=1.0)
        engine.optim_step(lr=1e-2, skip_above=None)
        losses = [trained_loss(engine, rows_of("padded")) for _ in range(2)]
        assert losses[0] != losses[1]
        assert evaluated_loss(engine, rows_of("padded")) == evaluated_loss(engine, rows_of("padded"))


def _forwards(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, change: Callable[..., object]) -> None:
    """Let `change` have the logits of every forward pass, and the tokens that gave them."""
    real = type(model).forward

    def forward(self, input_ids=None, **named):
        found = real(self, input_ids=input_ids, **named)
        found.logits = change(found.logits, input_ids)
        return found

    monkeypatch.setattr(type(model), "forward", forward)


@pytest.mark.parametrize(
    ("leak", "layout"),
    [
        # From the token before, in its row.
        (lambda logits, ids: logits + torch.nn.functional.pad(ids, (1, -1))[..., None] * 1e-3, "padded"),
        # From the first row, where the pass has others.
        (
            lambda logits, ids: logits + ids[0, 0] * 1e-3 * (torch.arange(len(ids)) > 0)[:, None, None],
            "single",
        ),
        # From what follows.
        (lambda logits, ids: logits + ids.float().mean(), None),
        (lambda logits, ids: logits + torch.rand(()), None),
    ],
)
def test_a_planted_leak_is_caught(leak, layout, family_folder: FolderOf, monkeypatch) -> None:
    folder = family_folder("llama")
    _forwards(load_eager(folder), monkeypatch, leak)
    for attention in ("auto", "sdpa", "eager"):
        spec = build_spec(folder, attention=attention)
        if layout is None:
            with pytest.raises(EngineError) as caught:
                build_engine(spec)
            assert caught.value.code == "engine.attention-mismatch"
            assert caught.value.hint
        else:
            assert build_engine(spec).facts.layout == layout
