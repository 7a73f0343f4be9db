"""The engine against Hugging Face, PEFT and TRL, which serve as references only: nothing of PEFT or TRL is
used at run time. Each function measures one equality; see engine_equalities.py for what a measure is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine_cases import Document, build_spec, draw_documents, lay_out, total_weight
from engine_equalities import LENGTHS, relative_difference
from tunewright.engines.torch.engine import TorchEngine, build_engine

MOVED = 1e-3
"""An adapter that moves the loss by less (relative) proves nothing by moving it equally elsewhere."""


def draw_plain(lengths: list[int], *, seed: int) -> list[Document]:
    """Documents with weights of 0 and 1 only: the references know no others."""
    return [
        (tokens, (weights > 0).astype(np.float32)) for tokens, weights in draw_documents(lengths, seed=seed)
    ]


# A document of one token has no label, and Hugging Face's mean over none is not a number.
UNSEEN = draw_plain([length for length in LENGTHS if length > 1], seed=5)


def trained_engine(folder: Path, **changes: Any) -> TorchEngine:
    """An engine some steps away from its start."""
    engine = build_engine(build_spec(folder, **changes))
    documents = draw_documents([30, 12, 41])
    for _ in range(3):
        engine.forward_backward([lay_out([documents])], denominator=total_weight(documents))
        engine.optim_step(lr=2e-2, skip_above=None)
    return engine


def engine_losses(engine: TorchEngine) -> list[float]:
    """Mean loss of each unseen document, alone in a padded row."""
    return [
        sums.loss / sums.weight
        for sums in (engine.evaluate(lay_out([[document]], width=50)) for document in UNSEEN)
    ]


def reference_losses(model: PreTrainedModel) -> list[float]:
    """Mean loss of each unseen document, as the model itself computes it from `labels`."""
    losses = []
    for tokens, weights in UNSEEN:
        inputs = torch.from_numpy(tokens.astype(np.int64))[None]
        labels = torch.from_numpy(np.where(weights > 0, tokens, -100).astype(np.int64))[None]
        with torch.no_grad():
            losses.append(model(input_ids=inputs, labels=labels).loss.item())
    return losses


def load_eager(folder: Path) -> PreTrainedModel:
    """The library's model with its own plain attention."""
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def hugging_face(folder: Path, scratch: Path) -> float:
    """Loss with a fresh adapter against the library's own loss of the base."""
    return relative_difference(
        engine_losses(build_engine(build_spec(folder))), reference_losses(load_eager(folder))
    )


def peft_reads_ours(folder: Path, scratch: Path, **adapter: Any) -> float:
    """Our trained adapter in PEFT against the engine that trained it."""
    from peft import PeftModel

    engine = trained_engine(folder, adapter=adapter)
    certificate = engine.export(scratch, merge=False)
    assert certificate["bytes_equal"]
    assert certificate["changes_the_base"]
    base = load_eager(folder)
    before = reference_losses(base)
    theirs = reference_losses(PeftModel.from_pretrained(base, str(scratch)).eval())
    assert relative_difference(theirs, before) > MOVED
    return relative_difference(theirs, engine_losses(engine))


def we_read_pefts(folder: Path, scratch: Path, **adapter: Any) -> float:
    """An adapter made and stored by PEFT, in the engine, against PEFT."""
    from peft import LoraConfig, get_peft_model

    targets = adapter.get("targets", "all-linear")
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias=adapter.get("bias", "none"),
        modules_to_save=list(adapter.get("modules_to_save", ())) or None,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    base = load_eager(folder)
    before = reference_losses(base)
    torch.manual_seed(0)
    model = get_peft_model(base, config).eval()
    model.save_pretrained(scratch)
    theirs = reference_losses(model)
    assert relative_difference(theirs, before) > MOVED
    engine = build_engine(build_spec(folder, adapter=adapter, adapter_folder=scratch))
    return relative_difference(engine_losses(engine), theirs)


def merged(folder: Path, scratch: Path) -> float:
    """Merged weights, read from disk by the library, against the engine with its adapter."""
    engine = trained_engine(folder)
    certificate = engine.export(scratch, merge=True)
    assert 0 < certificate["difference"] <= certificate["bound"]
    theirs = reference_losses(load_eager(scratch))
    assert relative_difference(theirs, reference_losses(load_eager(folder))) > MOVED
    return relative_difference(theirs, engine_losses(engine))
