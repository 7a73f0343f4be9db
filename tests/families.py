"""Tiny random-weight Hugging Face model folders, one per architecture family, for tests of every layer.

Hidden size 64, grouped-query attention, three or four layers so that window and global layers alternate
where the family has both. Seeded: the same name gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "phi3")

STATEFUL = (
    "lfm2", "qwen3_5", "qwen3_next", "mamba", "mamba2", "falcon_mamba", "granitemoehybrid", "jamba",
    "recurrent_gemma",
)  # fmt: skip
"""Families with layers that carry state along a row, whatever its documents are."""

NOISY = {
    "opt": "attention_dropout 0.2, dropout 0.1, layerdrop 0.3",
    "seed_oss": "attention_dropout 0.1, residual_dropout 0.1",
    "gpt2": "attn_pdrop 0.1, embd_pdrop 0.1, resid_pdrop 0.1",
    "phimoe": "router_jitter_noise 0.01",
}
"""Families whose configs bring dropout or jitter, and which."""

EAGER = ("gpt_oss", "bloom", "falcon", "falcon_alibi", "mpt", "gptj", "codegen")
"""Families that take no attention function of ours; the last two know packed rows by their positions."""

WINDOW = 16
"""Tokens a sliding-window layer of these models sees, itself included."""

SPECIAL_TOKENS = ("<pad>", "<s>", "<|im_start|>", "<|im_end|>")
PAD, BOS, _, END = SPECIAL_TOKENS

CHAT_TEMPLATE = (
    "{%- if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content %}{{ message.content }}{% endif %}"
    "{% for call in message.tool_calls or [] %}"
    '<call>{"name": {{ call.function.name | tojson }}, "arguments": '
    "{% if call.function.arguments is string %}{{ call.function.arguments }}"
    "{% else %}{{ call.function.arguments | tojson }}{% endif %}}</call>"
    "{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TEXT = (
    "the quick brown fox jumps over the lazy dog",
    "a small model learns a small task from a few examples",
    "user assistant system tool tools",
    "what is the capital of france? paris is the capital of france.",
    "one two three four five six seven eight nine ten",
)


@dataclass(frozen=True)
class Family:
    """Class names in transformers, and what the config says beyond the common sizes."""

    config: str
    model: str
    tied: bool
    layers: int = 3
    options: dict[str, Any] = field(default_factory=dict)


def _windows(layers: int) -> dict[str, Any]:
    kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    return {"sliding_window": WINDOW, "layer_types": kinds}


_DELTA_NET = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
_MAMBA_2 = {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 1, "expand": 2}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GPT_J = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 8}

_FAMILY_TABLE = {
    "llama": Family("LlamaConfig", "LlamaForCausalLM", tied=False),
    "qwen2": Family("Qwen2Config", "Qwen2ForCausalLM", tied=True),
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", tied=True, options={"head_dim": 16}),
    "mistral": Family("MistralConfig", "MistralForCausalLM", tied=False, options={"sliding_window": WINDOW}),
    "gemma": Family("GemmaConfig", "GemmaForCausalLM", tied=True, options={"head_dim": 16}),
    "gemma2": Family(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        tied=True,
        layers=4,
        options={
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
            **_windows(4),
        },
    ),
    "gemma3": Family(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        tied=True,
        layers=4,
        options={"head_dim": 16, "query_pre_attn_scalar": 16, **_windows(4)},
    ),
    "phi3": Family("Phi3Config", "Phi3ForCausalLM", tied=False, options={"sliding_window": WINDOW}),
    "lfm2": Family(
        "Lfm2Config", "Lfm2ForCausalLM", tied=True, layers=2,
        options={"layer_types": ["conv", "full_attention"], "block_ff_dim": 96},
    ),
    "qwen3_5": Family("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", tied=False, layers=2, options=_DELTA_NET),
    "qwen3_next": Family(
        "Qwen3NextConfig", "Qwen3NextForCausalLM", tied=False, layers=2,
        options={
            **_DELTA_NET, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "mamba": Family("MambaConfig", "MambaForCausalLM", tied=True, layers=2, options={"state_size": 8}),
    "mamba2": Family("Mamba2Config", "Mamba2ForCausalLM", tied=False, layers=2, options=_MAMBA_2),
    "falcon_mamba": Family(
        "FalconMambaConfig", "FalconMambaForCausalLM", tied=True, layers=2, options={"state_size": 8}
    ),
    "granitemoehybrid": Family(
        "GraniteMoeHybridConfig", "GraniteMoeHybridForCausalLM", tied=True, layers=2,
        options={
            **_EXPERTS, "shared_intermediate_size": 32, "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
            "mamba_expand": 2,
        },
    ),
    "jamba": Family(
        "JambaConfig", "JambaForCausalLM", tied=False, layers=2,
        options={
            "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
            "mamba_d_state": 8,
        },
    ),
    "recurrent_gemma": Family(
        "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", tied=True,
        options={"lru_width": 64, "head_dim": 16, "attention_window_size": WINDOW},
    ),
    "gpt_oss": Family(
        "GptOssConfig", "GptOssForCausalLM", tied=False, layers=2,
        options={**_EXPERTS, "head_dim": 16, "sliding_window": WINDOW},
    ),
    "bloom": Family(
        "BloomConfig", "BloomForCausalLM", tied=True, layers=2, options={"n_layer": 2, "n_head": 4}
    ),
    "falcon": Family(
        "FalconConfig", "FalconForCausalLM", tied=True, layers=2,
        options={"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    ),
    "falcon_alibi": Family(
        "FalconConfig", "FalconForCausalLM", tied=True, layers=2,
        options={"new_decoder_architecture": False, "multi_query": False, "alibi": True},
    ),
    "mpt": Family(
        "MptConfig", "MptForCausalLM", tied=True, layers=2,
        options={"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    ),
    "gptj": Family("GPTJConfig", "GPTJForCausalLM", tied=False, layers=2, options=_GPT_J),
    "codegen": Family("CodeGenConfig", "CodeGenForCausalLM", tied=False, layers=2, options=_GPT_J),
    # These bring dropout of their own, PhiMoE a jitter of its router.
    "opt": Family(
        "OPTConfig", "OPTForCausalLM", tied=True, layers=2,
        options={"ffn_dim": 96, "word_embed_proj_dim": 64, "layerdrop": 0.3, "attention_dropout": 0.2},
    ),
    "seed_oss": Family(
        "SeedOssConfig", "SeedOssForCausalLM", tied=False, layers=2, options={"head_dim": 16}
    ),
    "gpt2": Family(
        "GPT2Config", "GPT2LMHeadModel", tied=True, layers=2,
        options={"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    ),
    "phimoe": Family("PhimoeConfig", "PhimoeForCausalLM", tied=False, layers=2, options=_EXPERTS),
}  # fmt: skip


def make_family(name: str, folder: Path) -> Path:
    """Write the model folder of family `name` into `folder` (created if needed) and return `folder`."""
    import torch
    import transformers

    family = _FAMILY_TABLE[name]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    config = getattr(transformers, family.config)(
        vocab_size=-(-tokenizer.get_vocab_size() // 8) * 8,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=family.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=family.tied,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(END),
        # The usual 0.02 gives a tiny model near-uniform logits, in which tests of equality see little.
        initializer_range=0.1,
        **family.options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, family.model)(config)
        _randomise_constant_parameters(model)
    model.save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> Any:
    """Write tokenizer.json and tokenizer_config.json: byte-level BPE, so that any text encodes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        show_progress=False,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": END,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return tokenizer


def _randomise_constant_parameters(model: Any) -> None:
    """Norm scales start at 1 (or 0), biases at 0: values that hide a swapped or missing one."""
    import torch

    for parameter in model.parameters():
        if not parameter.isfinite().all():
            # Some classes leave it to a checkpoint to fill.
            parameter.data = 0.05 * torch.randn_like(parameter)
        if parameter.unique().numel() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
