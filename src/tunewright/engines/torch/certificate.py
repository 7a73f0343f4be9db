"""Proof that merged weights on disk compute what the trained model in memory does.

Log-probabilities of some real rows, before and after; the bound is twice what these rows move between a
bf16 and an fp32 forward, so a difference below it is within what number formats do anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tunewright.engines.merge_certificate import state_difference
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.load import load_model
from tunewright.engines.torch.precision import DTYPES, compute_in
from tunewright.engines.torch.varlen import takes_documents


@torch.no_grad()
def log_probs(model: PreTrainedModel, rows: Sequence[NDArray[np.int64]], precision: str) -> torch.Tensor:
    """Log-probability (nats) of each row's tokens but the first, one after the other, on the CPU."""
    model.eval()
    parts = []
    for row in rows:
        tokens = torch.from_numpy(np.asarray(row, dtype=np.int64)).to(model.device)[None]
        layout = {}
        if takes_documents(model):
            layout["documents"] = Documents(((tokens.shape[1],),))
        with compute_in(precision, model.device):
            logits = model(input_ids=tokens, use_cache=False, **layout).logits[0, :-1]
        parts.append(logits.float().log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0].cpu())
    return torch.cat(parts)


def certify_merge(
    folder: Path, reference: torch.Tensor, rows: Sequence[NDArray[np.int64]], spec: EngineSpec,
    device: torch.device,
) -> Mapping[str, object]:  # fmt: skip
    """Load the written model and compare with `reference`. Raises EngineError beyond the bound."""
    merged = load_model(folder, dtype=DTYPES[spec.dtype], device=device)
    measured = float((log_probs(merged, rows, spec.precision) - reference).abs().max())
    fine = log_probs(merged.float(), rows, "fp32")
    coarse = log_probs(merged.bfloat16(), rows, "fp32")
    bound = 2 * float((fine - coarse).abs().max())
    return state_difference(folder, measured=measured, bound=bound, rows=len(rows), tokens=len(reference))
