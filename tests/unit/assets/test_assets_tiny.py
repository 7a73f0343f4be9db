"""The bundled model folder: complete, small, and able to take any text."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.arrays import read_arrays, read_header
from tunewright.assets.files import TINY_MODEL
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.types import Message, ToolCall

TOOL = '{"type": "function", "function": {"name": "weather", "parameters": {}}}'


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_tokenizer(TINY_MODEL, None)


def test_folder_is_complete_and_at_most_six_megabytes():
    names = {path.name for path in TINY_MODEL.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {"chat_template.jinja", "generation_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in TINY_MODEL.iterdir()) <= 6_000_000


def test_weights_fit_the_shape_in_config_json():
    config = json.loads((TINY_MODEL / "config.json").read_text(encoding="utf-8"))
    header = read_header(TINY_MODEL / "model.safetensors")
    assert {entry.dtype for entry in header.values()} == {"BF16"}
    assert header["model.embed_tokens.weight"].shape == (config["vocab_size"], config["hidden_size"])
    layers = {name.split(".")[2] for name in header if name.startswith("model.layers.")}
    assert len(layers) == config["num_hidden_layers"]
    assert config["max_position_embeddings"] >= 2048


def test_weights_are_finite():
    for name, array in read_arrays(TINY_MODEL / "model.safetensors").items():
        bits = np.frombuffer(array.data, "<u2")
        assert (bits & 0x7F80 != 0x7F80).all(), name


@given(text=st.text())
def test_any_text_comes_back(tokenizer: ChatTokenizer, text: str):
    ids, _ = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert ids == list(text.encode()) or "<|" in text


def test_control_tokens_are_one_token_each(tokenizer: ChatTokenizer):
    ids, _ = tokenizer.encode("<|user|>é<|end|>")
    assert ids == [259, 0xC3, 0xA9, 257]
    assert tokenizer.pad_id == 256
    assert tokenizer.stop_ids == (257,)
    assert tokenizer.vocab_size == 264


def test_template_renders_a_tool_conversation(tokenizer: ChatTokenizer):
    messages = (
        Message("system", "Be brief."),
        Message("user", "Rain?"),
        Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Bonn"}'),)),
        Message("tool", '{"rain": true}'),
        Message("assistant", "Yes.", reasoning="It says so."),
    )
    assert tokenizer.render(messages, [TOOL]) == (
        f"<|system|>Be brief.<|tools|>[{TOOL}]<|end|>"
        "<|user|>Rain?<|end|>"
        '<|assistant|><|call|>{"name": "weather", "arguments": {"city": "Bonn"}}<|end|>'
        '<|tool|>{"rain": true}<|end|>'
        "<|assistant|><think>It says so.</think>Yes.<|end|>"
    )
    prompt = tokenizer.render(messages[:2], [TOOL], generation_prompt=True)
    assert prompt.endswith("Rain?<|end|><|assistant|>")


def test_tools_without_a_system_message_open_a_system_turn(tokenizer: ChatTokenizer):
    text = tokenizer.render((Message("user", "Hi"),), [TOOL])
    assert text == f"<|system|><|tools|>[{TOOL}]<|end|><|user|>Hi<|end|>"


def test_transformers_loads_the_folder():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_463_168
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "<|user|>Hi<|end|>"
