"""Tiny random models of every type that transformers lists as a causal language model, as it saves them.

Sizes are set by name in the configuration and in those inside it; _OPTIONS has what a type needs beyond that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from families import write_tokenizer

_SIZES: Mapping[int, str] = {
    1: "num_nextn_predict_layers num_mtp_layers moe_layer_start_index num_codebooks_per_step",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers "
    "num_decoder_layers num_blocks num_key_value_heads num_kv_heads num_experts_per_tok "
    "num_experts_per_token moe_k moe_topk top_k_experts linear_num_key_heads depth num_global_layers",
    4: "num_attention_heads n_head n_heads encoder_attention_heads decoder_attention_heads attention_heads "
    "num_heads num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads "
    "index_n_heads mamba_num_heads mamba_n_groups n_groups num_global_key_value_heads",
    8: "qk_rope_head_dim rotary_dim state_size ssm_state_size mamba_d_state chunk_size mamba_chunk_size",
    16: "head_dim attention_head_size d_head dim_head attention_head_dim v_head_dim qk_nope_head_dim "
    "index_head_dim linear_key_head_dim linear_value_head_dim global_head_dim kv_channels kv_lora_rank "
    "q_lora_rank o_lora_rank adapter_rank sliding_window attention_window_size patch_size linear_head_dim "
    "mamba_head_dim mamba_d_head hidden_size_per_layer_input num_mel_bins",
    32: "image_size",
    64: "hidden_size n_embd d_model dim emb_dim embedding_size input_embedding_size output_embedding_size "
    "embedding_dim word_embed_proj_dim lru_width attention_hidden_size ple_embed_dim projection_dim "
    "out_hidden_size shape_embed_dim pronunciation_embed_dim output_dim proj_hidden_size",
    96: "intermediate_size n_inner ffn_dim ffn_hidden_size encoder_ffn_dim decoder_ffn_dim dff dim_ff "
    "d_inner block_ff_dim feed_forward_size moe_intermediate_size shared_expert_intermediate_size "
    "shared_experts_intermediate_size moe_shared_expert_intermediate_size shared_intermediate_size "
    "expert_ffn_hidden_size dense_intermediate_size",
    384: "vocab_size vocab_size_per_layer_input shape_vocab_size pronunciation_vocab_size",
    512: "max_position_embeddings n_positions n_ctx max_seq_len seq_length context_length model_max_length",
}
_FIXED = {name: size for size, names in _SIZES.items() for name in names.split()}
_FULL_LAST = {"layer_types": ["linear_attention", "full_attention"]}
_SLIDING_FIRST = {"layer_types": ["sliding_attention", "full_attention"]}
_GEMMA4_TEXT = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
}
_GEMMA4_ASSISTANT = {
    "text_config": {
        "model_type": "gemma4_text",
        **_SLIDING_FIRST,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
    },
    "backbone_hidden_size": 64,
}
_INKLING = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "layer_types": ["hybrid_sliding", "hybrid"],
}
_QWEN4 = {
    **_FULL_LAST,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_d_head": 16}
_TINY_TEXT = {
    "model_type": "qwen2",
    **{
        name: _FIXED[name]
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
        )
    },
}

# What a type needs beyond sizes; under the name of a configuration inside it, what that one needs.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "axk1": {"n_group": 1, "topk_group": 1},
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2},
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "bamba": {**_MAMBA2, "attn_layer_indices": [1]},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        **{part: {"hidden_size_global": 64, "dropout": 0.0} for part in ("encoder_config", "decoder_config")},
    },
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _SLIDING_FIRST["layer_types"]
        },
        **_SLIDING_FIRST,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4, "mlp_layer_types": ["dense", "sparse"]},
        "vision_config": {
            "mlp_layer_types": ["dense", "dense"],
            "adapter_in_dim": 64,
            "adapter_input_size": 64,
        },
    },
    "dots3_note_text": {"num_key_value_heads": 4, "mlp_layer_types": ["dense", "sparse"]},
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 128},
    "fuyu": {"text_config": {**_TINY_TEXT, "model_type": "persimmon"}},
    "gemma3": {
        "text_config": _SLIDING_FIRST,
        "vision_config": {"model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
    },
    "gemma3_text": _SLIDING_FIRST,
    "gemma3n_text": {**_GEMMA4_TEXT, "laurel_rank": 8},
    "gemma4": {"text_config": _GEMMA4_TEXT, "vision_config": {"position_embedding_size": 64}},
    "gemma4_text": _GEMMA4_TEXT,
    "gemma4_unified": {"text_config": _GEMMA4_TEXT},
    "gemma4_assistant": _GEMMA4_ASSISTANT,
    "gemma4_unified_assistant": {
        "text_config": {**_GEMMA4_ASSISTANT["text_config"], "model_type": "gemma4_unified_text"},
        "backbone_hidden_size": 64,
    },
    "got_ocr2": {
        "text_config": _TINY_TEXT,
        "vision_config": {"mlp_dim": 96, "output_channels": 16, "global_attn_indexes": [1]},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "granitemoehybrid": {**_MAMBA2, "layer_types": ["mamba", "attention"]},
    "inkling2_text": _INKLING,
    "inkling_text": _INKLING,
    "kimi_linear": {**_FULL_LAST, "linear_num_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"num_layers": 2, "zero_expert_num": 2, "head_dim": 8},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "moss_transcribe_diarize": {"text_config": {**_TINY_TEXT, "model_type": "qwen3"}},
    "nemotron_h": {
        "mamba_num_heads": 8,
        "n_groups": 1,
        "layers_block_type": ["mamba", "attention", "mlp", "moe"],
    },
    "qwen3_5": {"text_config": _FULL_LAST},
    "qwen3_5_moe": {"text_config": _FULL_LAST},
    "qwen3_5_moe_text": _FULL_LAST,
    "qwen3_5_text": _FULL_LAST,
    "qwen3_next": _FULL_LAST,
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "olmo_hybrid": _FULL_LAST,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds_dim": [16, 48],
        "axial_pos_shape": [16, 32],
        "num_buckets": 4,
    },
    "roformer": {"max_position_embeddings": 512},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "mamba_dt_rank": 8,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}


def causal_types() -> tuple[str, ...]:
    """Every model type with a causal language model in the installed transformers, in order of name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def make_causal_type(model_type: str, folder: Path) -> Path:
    """Write the model folder of `model_type`, with the tokenizer of the other test models, and return it."""
    import torch
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    config = build_config(model_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            _fill(parameter.data)
    model.save_pretrained(folder)
    return folder


def build_config(model_type: str) -> Any:
    """The tiny configuration of a type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[model_type], _OPTIONS.get(model_type, {}))


def _tiny(config_class: Any, options: Mapping[str, Any]) -> Any:
    known = set(_annotated(config_class))
    values: dict[str, Any] = {name: size for name, size in _FIXED.items() if name in known}
    if "kv_lora_rank" in known:
        # Keys and values come out of one small matrix for all heads.
        values["num_key_value_heads"] = values["num_attention_heads"]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    values |= {name: number for name, number in ids.items() if name in known}
    # Of an encoder: without it its language model looks at what it is to predict.
    values |= {"is_decoder": True} if "is_decoder" in known else {}
    inner = getattr(config_class, "sub_configs", None) or {}
    plain = {name: value for name, value in options.items() if name not in inner}
    for name, inner_class in inner.items():
        values[name] = _inner(inner_class, options.get(name, {}))
    values = {name: value for name, value in values.items() if value is not None}
    return config_class(**{**values, **plain})


def _inner(config_class: Any, options: Mapping[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if "model_type" in options:
        options = dict(options)
        config_class = CONFIG_MAPPING[options.pop("model_type")]
    return None if config_class.__name__ == "AutoConfig" else _tiny(config_class, options)


def _annotated(config_class: type) -> Iterator[str]:
    for base in config_class.__mro__:
        yield from vars(base).get("__annotations__", {})


def _fill(values: Any) -> None:
    """Random numbers where all are equal (norms, biases) or were never set: those hide what is left out."""
    import torch

    if not torch.isfinite(values).all():
        values.copy_(0.05 * torch.randn_like(values))
    elif values.numel() and bool((values == values.flatten()[0]).all()):
        values += 0.1 * torch.randn_like(values)
