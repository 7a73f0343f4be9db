"""Proof that merged weights on disk compute what the trained model in memory does.

Log-probabilities of some real rows, before and after; the bound is four times what these rows move between
a bf16 and an fp32 forward, since weights are rounded as well as activations. Both are root mean squares over
all tokens: the largest difference is that of one token, which may be any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tunewright.engines.merge_certificate import state_difference, state_nothing_compared
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.device import free_bytes, raise_out_of_memory
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.load import load_model
from tunewright.engines.torch.precision import DTYPES, compute_in
from tunewright.engines.torch.varlen import takes_documents
from tunewright.errors import EngineOutOfMemory
from tunewright.host_memory import free_memory_bytes

# A row of 256 tokens through one layer at a time, and its logits three times in fp32.
_WORK_BYTES = 2**30


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
    """Load the written model where it fits and compare with `reference`. Raises EngineError beyond the bound.

    Where nothing has room for it the certificate says that nothing was compared: the model is written by
    then, and hours of training are in it.
    """
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    for place in places_with_room(device, stored, DTYPES[spec.dtype].itemsize):
        with suppress(EngineOutOfMemory, MemoryError), raise_out_of_memory(place):
            return _compare(folder, reference, rows, spec, place)
    return state_nothing_compared(f"no memory for its {stored / 2**30:.1f} GiB, and for them in fp32")


def places_with_room(device: torch.device, stored: int, itemsize: int) -> list[torch.device]:
    """Where a model of `stored` bytes, `itemsize` a number, can be computed with in fp32 beside the trained
    one. `device` first: it rounds as training did."""
    if device.type != "cuda":
        return [device]
    fp32 = 4 * stored // itemsize
    host, places = free_memory_bytes(), list[torch.device]()
    # torch may keep what the conversion to fp32 frees: no array of twice the size fits into it.
    if free_bytes(device) >= stored + fp32 + _WORK_BYTES:
        places.append(device)
    if host == 0 or host >= max(stored, fp32) + _WORK_BYTES:
        places.append(torch.device("cpu"))
    return places


def _compare(
    folder: Path, reference: torch.Tensor, rows: Sequence[NDArray[np.int64]], spec: EngineSpec,
    device: torch.device,
) -> Mapping[str, object]:  # fmt: skip
    merged = load_model(folder, dtype=DTYPES[spec.dtype], device=device)
    measured = _root_mean_square(log_probs(merged, rows, spec.precision) - reference)
    # Both convert in place, one tensor after the other.
    fine = log_probs(merged.float(), rows, "fp32")
    coarse = log_probs(merged.bfloat16(), rows, "fp32")
    bound = 4 * _root_mean_square(fine - coarse)
    return state_difference(folder, measured=measured, bound=bound, rows=len(rows), tokens=len(reference))


def _root_mean_square(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
