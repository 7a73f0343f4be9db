"""How transformers calls an attention of ours, and what it may not ask for: one place for all of them."""

# B rows, T tokens of a row, H heads, D head width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from tunewright.engines.torch.documents import Documents

# Arguments of other families that change what attention computes; a value here means "not ours".
_FOREIGN = ("s_aux", "position_bias", "cache", "head_mask", "indices")


class UnsupportedAttentionError(ValueError):
    """The model asks for something this attention does not do."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a model's attention computes beside the plain thing. window: tokens that one sees, itself
    included. softcap: scores go through cap · tanh(score / cap)."""

    scale: float | None
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Documents, Rule], torch.Tensor]
"""query [B, H, T, D], key and value [B, H or fewer, T, D] → [B, T, H, D]."""


def register_attention(name: str, attend: Attend) -> None:
    """Let transformers' models take `attend` under `name`. A call for what no attention over documents does
    raises UnsupportedAttentionError. No mask function goes with it: transformers then builds none."""

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        documents: Documents | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        if documents is None:
            raise UnsupportedAttentionError("the model does not pass the document layout to its attention")
        _check_supported(module, attention_mask, kwargs)
        rule = Rule(scaling, kwargs.get("sliding_window"), kwargs.get("softcap"), dropout)
        return attend(query, key, value, documents, rule), None

    AttentionInterface.register(name, attention)


def _check_supported(
    module: torch.nn.Module, attention_mask: torch.Tensor | None, kwargs: dict[str, Any]
) -> None:
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise UnsupportedAttentionError("the model attends in both directions")
    if attention_mask is not None:
        raise UnsupportedAttentionError("the model brings a mask of its own")
    foreign = [name for name in _FOREIGN if kwargs.get(name) is not None]
    if foreign:
        raise UnsupportedAttentionError(f"the model's attention also takes {', '.join(foreign)}")
