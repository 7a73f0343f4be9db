"""Families by the rows they are expected to take, for plans without a loaded model. The torch engine proves
it on the weights themselves, and what it finds is what a run does."""

from __future__ import annotations

STATEFUL = frozenset(
    {
        "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear",
        "lfm2", "lfm2_moe", "lfm3", "mamba", "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5",
        "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "zamba",
        "zamba2",
    }
)  # fmt: skip
"""Layers of these carry state along a row: recurrence or a convolution."""

EAGER = frozenset({"bloom", "codegen", "falcon", "gpt_oss", "gptj", "mpt"})
"""They take no attention function, or ask it for more than ours does, and keep the scores of whole rows."""

_PACKED_BY_POSITIONS = frozenset({"codegen", "gptj"})

ONE_DOCUMENT_A_ROW = STATEFUL | (EAGER - _PACKED_BY_POSITIONS)
"""Expected not to keep packed documents apart."""
