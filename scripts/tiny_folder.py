"""The parts of `builtin:tiny` that are not learnt: shape, byte tokenizer, chat template, random start values.

Used by pretrain_tiny.py. NumPy only, so that the start values do not depend on a version of torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import ByteLevel

from tunewright.arrays import write_arrays
from tunewright.files import write_file, write_json
from tunewright.types import Array

# Ids 0-255 are the bytes themselves; these follow. The flag says whether decoding leaves the token out.
CONTROL_TOKENS = {
    "<|pad|>": True,
    "<|end|>": True,
    "<|system|>": True,
    "<|user|>": True,
    "<|assistant|>": True,
    "<|tool|>": True,
    "<|tools|>": False,
    "<|call|>": False,
}
VOCABULARY = 256 + len(CONTROL_TOKENS)
PAD_ID, END_ID = 256, 257

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_cache": True,
    "bos_token_id": None,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
}

CHAT_TEMPLATE = """\
{%- set first = messages[0] if messages else none %}
{%- set opening = first.content if first and first.role == 'system' else '' %}
{%- if opening or tools %}
    {{- '<|system|>' + opening }}
    {%- if tools %}
        {{- '<|tools|>' + (tools | tojson) }}
    {%- endif %}
    {{- '<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- if message.reasoning_content %}
            {{- '<think>' + message.reasoning_content + '</think>' }}
        {%- endif %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function if call.function is defined else call %}
            {%- set arguments = function.arguments %}
            {{- '<|call|>{"name": ' + (function.name | tojson) + ', "arguments": ' }}
            {{- (arguments if arguments is string else arguments | tojson) + '}' }}
        {%- endfor %}
        {{- '<|end|>' }}
    {%- elif message.role in ['user', 'tool'] %}
        {{- '<|' + message.role + '|>' + message.content + '<|end|>' }}
    {%- elif message.role == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('a system message must come first') }}
        {%- endif %}
    {%- else %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def write_model_folder(folder: Path, *, seed: int) -> None:
    """Write a complete Hugging Face folder with random start values in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    write_fixed_files(folder, dtype="float32")
    write_arrays(folder / "model.safetensors", dict(_start_values(seed)), metadata={"format": "pt"})


def write_fixed_files(folder: Path, *, dtype: str) -> None:
    """Write everything but the weights: config, tokenizer, chat template, generation settings."""
    write_json(folder / "config.json", {**CONFIG, "dtype": dtype})
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": None, "eos_token_id": END_ID, "pad_token_id": PAD_ID},
    )
    write_json(folder / "tokenizer.json", json.loads(build_tokenizer().to_str()))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONFIG["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
        },
    )
    write_file(folder / "chat_template.jinja", [CHAT_TEMPLATE.encode()])


def build_tokenizer() -> Tokenizer:
    """One token a byte, its id the byte's value, so that any text can be written; then control tokens."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = ByteLevel(trim_offsets=False)
    for text, hidden in CONTROL_TOKENS.items():
        token = AddedToken(text, special=hidden, normalized=False)
        tokenizer.add_special_tokens([token]) if hidden else tokenizer.add_tokens([token])
    return tokenizer


def _byte_characters() -> Iterator[str]:
    """The printable stand-in of each byte in the byte-level alphabet, in order of the bytes.

    Source: the byte-to-character table of GPT-2.
    """
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = 0
    for byte in range(256):
        if byte in shown:
            yield chr(byte)
        else:
            yield chr(256 + hidden)
            hidden += 1


def _start_values(seed: int) -> Iterator[tuple[str, Array]]:
    """Normal values of standard deviation 0.02 and ones for the norms, drawn in order of the names."""
    random = np.random.Generator(np.random.Philox(seed))
    for name, shape in sorted(parameter_shapes().items()):
        if len(shape) == 1:
            values = np.ones(shape, np.float32)
        else:
            values = random.standard_normal(shape, np.float32) * np.float32(0.02)
        yield name, Array("F32", shape, values.astype("<f4").tobytes())


def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by its Hugging Face name."""
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    queries = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (VOCABULARY, width),
    }
    for index in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.self_attn.q_proj.weight": (queries, width),
            f"{layer}.self_attn.k_proj.weight": (keys, width),
            f"{layer}.self_attn.v_proj.weight": (keys, width),
            f"{layer}.self_attn.o_proj.weight": (width, queries),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
        }
    return shapes


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16 values as their bits, ties to even. Finite values only."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
