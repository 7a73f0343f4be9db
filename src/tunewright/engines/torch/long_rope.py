"""Rotary positions that have other frequencies for long documents (longrope, as in Phi-3 128k).

transformers picks long or short frequencies by the largest position of the whole batch, so a document would
be computed in another way when a long one lies beside it. Here each document has its own, as if alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn

# Array letters: B rows, T tokens of a row, R numbers of a head that rotate.

_Rotary = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def rotate_by_document(model: nn.Module) -> None:
    """Let each rotary embedding of `model` that is a longrope choose frequencies for each document."""
    for module in model.modules():
        if getattr(module, "rope_type", None) == "longrope":
            config: Any = module.config
            limit = int(config.rope_parameters["original_max_position_embeddings"])
            module.forward = _by_document(module.forward, limit)


def long_documents(positions_BT: torch.Tensor, limit: int) -> torch.Tensor:
    """bool [B, T]: is the token in a document that goes on past `limit` positions? Documents start at 0."""
    document_BT = (positions_BT == 0).long().cumsum(dim=1)
    last_BD = positions_BT.new_zeros(len(positions_BT), positions_BT.shape[1] + 1)
    last_BD.scatter_reduce_(1, document_BT, positions_BT, "amax")
    return last_BD.gather(1, document_BT) >= limit


def _by_document(forward: _Rotary, limit: int) -> _Rotary:
    @wraps(forward)
    def call(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        is_long_BT = long_documents(position_ids, limit)
        if is_long_BT.all() or not is_long_BT.any():
            return forward(x, position_ids)
        long_BTR = forward(x, position_ids)
        short_BTR = forward(x, position_ids.masked_fill(is_long_BT, 0))
        cosine, sine = (
            torch.where(is_long_BT.unsqueeze(-1), a, b) for a, b in zip(long_BTR, short_BTR, strict=True)
        )
        return cosine, sine

    return call
