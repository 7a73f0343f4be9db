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
}


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
        if parameter.unique().numel() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
