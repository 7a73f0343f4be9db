"""A decoder layer of the Llama kind that trains adapters fast: the model's own parts under their own names,
computed in a few wide operations."""

# B rows, T tokens of a row, S = B·T, L label rows, D model width, H heads of queries and keys, W head width

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunewright.engines.torch.attention import document_attention
from tunewright.engines.torch.attention_call import Rule
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.fast.attention import Heads, attend_heads
from tunewright.engines.torch.fast.elementwise import Elementwise
from tunewright.engines.torch.fast.functions import (
    Inward,
    Mlp,
    Norm,
    Turn,
    add_mlp,
    project_add,
    project_normed,
    turn_heads,
)
from tunewright.engines.torch.fast.projection import Projection
from tunewright.engines.torch.varlen import VARLEN_NAME, attend_varlen
from tunewright.models.fast_activations import LONGEST_KEPT


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What the families differ in. norm_shift: added to a norm's weight (Gemma stores it less 1).
    activation: as elementwise.gate takes it.
    window_holder: whose `sliding_window` counts, which a check may narrow; or None."""

    heads: Heads
    scale: float
    window_holder: object
    norm_shift: float
    activation: str

    @property
    def window(self) -> int | None:
        """Tokens that one sees, itself included."""
        return getattr(self.window_holder, "sliding_window", None)


class FastLayer(nn.Module):
    """Stands in the place of `plain`, with its parts under their names. It needs the document layout."""

    def __init__(self, plain: Any, facts: LayerFacts, ops: Elementwise, *, last: bool) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.facts, self.ops, self.last = facts, ops, last
        attention, mlp = plain.self_attn, plain.mlp
        self.qkv = Projection([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = Projection([attention.o_proj])
        self.inward = Inward(_norm(plain.input_layernorm, facts), self.qkv, ops)
        both = Projection([mlp.gate_proj, mlp.up_proj])
        after = Inward(_norm(plain.post_attention_layernorm, facts), both, ops)
        self.wide_mlp = Mlp(after, Projection([mlp.down_proj]), facts.activation)
        self.train(plain.training)

    def forward(
        self, hidden_states: torch.Tensor, *, documents: Documents, position_embeddings: Any,
        label_rows: torch.Tensor | None = None, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        """[B, T, D] → [B, T, D]; with `label_rows` (flat positions) the last one gives [1, L, D] of them."""
        # Types are fixed by the weights; autocast would only look at each operation again.
        with torch.autocast(hidden_states.device.type, enabled=False):
            return self._compute(
                hidden_states, documents, position_embeddings, label_rows if self.last else None
            )

    def _compute(
        self, h_BTD: torch.Tensor, documents: Documents, rotary: tuple[torch.Tensor, torch.Tensor],
        rows_L: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        for projection in (self.qkv, self.out, self.wide_mlp.inward.projection, self.wide_mlp.down):
            projection.refresh()
        shape = h_BTD.shape
        qkv_SO, h_SD = project_normed(h_BTD.flatten(0, 1), self.inward, training=self.training)
        mixed_SI = self._attend(qkv_SO, documents, rotary, shape[0])
        if rows_L is not None:
            # Keys and values were needed of every token; from here on only what the loss reads.
            mixed_SI, h_SD = mixed_SI.index_select(0, rows_L), h_SD.index_select(0, rows_L)
            shape = (1, *h_SD.shape)
        h_SD = project_add(mixed_SI, h_SD, self.out, training=self.training)
        return add_mlp(h_SD, self.wide_mlp, training=self.training).view(shape)

    def _attend(
        self, qkv_SO: torch.Tensor, documents: Documents, rotary: tuple[torch.Tensor, torch.Tensor], rows: int
    ) -> torch.Tensor:
        """[S, O] → [S, H·W]."""
        facts, heads, window = self.facts, self.facts.heads, self.facts.window
        queries = heads.keys * heads.groups
        tokens = len(qkv_SO)
        cos_SW, sin_SW = (table.expand(rows, -1, -1).reshape(tokens, -1).to(qkv_SO.dtype) for table in rotary)
        turn = Turn(cos_SW, sin_SW, queries, heads.keys, self._head_norms(), self.ops)
        qkv_SCW = turn_heads(qkv_SO.view(tokens, heads.columns, -1), turn)
        if qkv_SCW.device.type == "cpu" and documents.longest <= min(LONGEST_KEPT, window or LONGEST_KEPT):
            return attend_heads(qkv_SCW, documents.head_index(tokens // rows, heads), facts.scale)
        attention: Any = self.self_attn
        if attention.config._attn_implementation == VARLEN_NAME:
            q, k, v = qkv_SCW.split((queries, heads.keys, heads.keys), 1)
            sequences = documents.sequences(tokens // rows, qkv_SCW.device)
            return attend_varlen(q, k, v, sequences, facts.scale, window).flatten(1)
        q, k, v = (
            x_SCW.unflatten(0, (rows, -1)).transpose(1, 2)
            for x_SCW in qkv_SCW.split((queries, heads.keys, heads.keys), 1)
        )
        mixed_BTHW = document_attention(q, k, v, documents, Rule(facts.scale, window))
        return mixed_BTHW.reshape(tokens, -1)

    def _head_norms(self) -> tuple[Norm, ...]:
        found = [getattr(self.self_attn, name, None) for name in ("q_norm", "k_norm")]
        return tuple(_norm(norm, self.facts) for norm in found if norm is not None)


def _norm(module: Any, facts: LayerFacts) -> Norm:
    epsilon = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return Norm(module.weight, epsilon, facts.norm_shift)
