"""Attention over documents laid end to end by torch's variable-length flash kernel: CUDA, 16 bits.

One call for all documents of a batch, without padding between them. Where it does not fit, attention.py does
the same one length at a time; attention_check.py proves whichever is taken.
"""

# B rows, T tokens of a row, S = B·T, H heads, D head width

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from tunewright.engines.torch.attention import ATTENTION_NAME
from tunewright.engines.torch.attention_call import Rule, UnsupportedAttentionError, register_attention
from tunewright.engines.torch.documents import Documents, Sequences

VARLEN_NAME = "tunewright_varlen"


def takes_documents(model: PreTrainedModel) -> bool:
    """Whether the model's attention wants the layout of the documents as an argument."""
    return model.config._attn_implementation in (ATTENTION_NAME, VARLEN_NAME)


def has_varlen(device: torch.device, precision: str) -> bool:
    """Whether torch has the kernel for this device and compute type. Before 2.11 it had no windows."""
    if device.type != "cuda" or precision == "fp32" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "scale"} <= _arguments(varlen_attn)


def activate_fa3(device: torch.device) -> bool:
    """Put FlashAttention 3 behind torch's kernel where it is installed and the GPU is a Hopper."""
    if torch.cuda.get_device_capability(device)[0] != 9 or find_spec("flash_attn_interface") is None:
        return False
    try:
        torch.nn.attention.activate_flash_attention_impl("FA3")
    except (AttributeError, ImportError, RuntimeError, ValueError):
        return False
    return True


def restore_fa2() -> None:
    """Undo activate_fa3()."""
    torch.nn.attention.restore_flash_attention_impl()


def attend_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sequences: Sequences,
    scale: float | None, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """Causal attention inside each sequence: query [S, H, D], key and value [S, H or fewer, D] → [S, H, D].

    window: tokens that one sees, itself included.
    """
    from torch.nn.attention.varlen import varlen_attn

    # In 2.11 the kernel takes fewer heads of keys without being told.
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _arguments(varlen_attn) else {}
    out: Any = varlen_attn(
        query, key, value, sequences.starts, sequences.starts, sequences.longest, sequences.longest,
        scale=scale, window_size=(-1 if window is None else window - 1, 0), **grouped,
    )  # fmt: skip
    return out


@cache
def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, rule: Rule
) -> torch.Tensor:
    """As attention.document_attention, but that padding gets some finite values. Raises
    UnsupportedAttentionError for what the kernel does not do."""
    if rule.dropout or rule.softcap is not None:
        raise UnsupportedAttentionError("the flash kernel has neither dropout nor a soft cap")
    rows, heads, length, _ = query.shape
    # Rotary tables of an fp32 model promote queries and keys; values are in the compute type.
    q, k, v = (x.to(value.dtype).transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    out = attend_varlen(q, k, v, documents.sequences(length, query.device), rule.scale, rule.window)
    return out.view(rows, length, heads, -1)


register_attention(VARLEN_NAME, varlen_attention)
