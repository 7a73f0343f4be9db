from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import FAMILIES
from tunewright.errors import ModelError
from tunewright.models.config_filter import filter_config
from tunewright.models.native import causal_types, config_defaults, config_types, keys_read

LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 64}


def _refused(config: dict[str, Any], code: str) -> str:
    with pytest.raises(ModelError) as caught:
        filter_config(config, "config.json")
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_saves_stays(family: str, family_folder: Callable[[str], Path]) -> None:
    config = json.loads((family_folder(family) / "config.json").read_text())
    kept, warnings = filter_config(config, "config.json")
    assert kept == {key: value for key, value in config.items() if key != "_sliding_window_pattern"}
    assert warnings == ()


def test_old_names_that_the_type_still_reads_stay() -> None:
    config = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"factor": 8.0}, "torch_dtype": "bfloat16"}
    assert filter_config(config, "")[0] == config


def test_harmless_and_unknown_keys_go_silently() -> None:
    extra = {"_name_or_path": "x", "_commit_hash": "y", "name_or_path": "z", "unsloth_fixed": True, "a b": 1}
    extra |= {"_model_name_or_path": "x", "_attn_implementation": "sdpa", "_experts_implementation": None}
    extra |= {"__class__": "x", "_auto_class": "AutoModelForCausalLM"}
    assert filter_config({**LLAMA, **extra, "torch_dtype": "../x"}, "") == (LLAMA, ())


def test_a_private_key_that_the_type_itself_reads_stays() -> None:
    config = {"model_type": "opt", "hidden_size": 64, "_remove_final_layer_norm": True}
    assert filter_config(config, "") == (config, ())


def test_what_single_layers_set_is_filtered_like_the_config_around_it() -> None:
    text = {"model_type": "gemma4_text", "per_layer_config": {"1": {"head_dim": 32, "no_such_setting": 1}}}
    kept, _ = filter_config({"model_type": "gemma4", "text_config": text}, "c")
    assert kept["text_config"]["per_layer_config"] == {"1": {"head_dim": 32}}
    text["per_layer_config"]["1"]["_attn_implementation"] = "someone/kernel"
    refused = _refused({"model_type": "gemma4", "text_config": text}, "model.unsafe-config")
    assert "text_config.per_layer_config.1._attn_implementation" in refused


def test_a_part_without_a_type_is_read_like_the_config_around_it() -> None:
    config = {"model_type": "mpt", "attn_config": {"model_type": "", "_name_or_path": "", "alibi": True}}
    assert filter_config(config, "")[0]["attn_config"] == {"model_type": "", "alibi": True}


@pytest.mark.parametrize("infinite", [float("inf"), {"__float__": "Infinity"}])
def test_infinity_stays_as_transformers_writes_it(infinite: object) -> None:
    config = {"model_type": "mamba2", "time_step_limit": [0.0, infinite], "rope_scaling": {"x": infinite}}
    kept, _ = filter_config(config, "")
    assert kept["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert kept["rope_scaling"] == {"x": {"__float__": "Infinity"}}
    _refused({"model_type": "mamba2", "time_step_limit": {"__float__": "NaN"}}, "model.bad-config")


def test_nested_configs_are_filtered_by_their_own_type() -> None:
    text = {"model_type": "gemma3_text", "sliding_window": 512, "no_such_setting": 1, "auto_map": {}}
    config = {"model_type": "gemma3", "text_config": text, "rope_scaling": {"auto_map": {"a": "b"}, "x": [1]}}
    kept, warnings = filter_config(config, "c")
    assert kept["text_config"] == {"model_type": "gemma3_text", "sliding_window": 512}
    assert kept["rope_scaling"] == {"x": [1]}
    assert [warning.split()[1] for warning in warnings] == ["text_config.auto_map", "rope_scaling.auto_map"]


def test_a_nested_config_of_a_foreign_type_is_refused() -> None:
    _refused({"model_type": "gemma3", "text_config": {"model_type": "evil"}}, "model.remote-code")
    _refused({"model_type": "gemma3", "text_config": {"model_type": 3}}, "model.remote-code")


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "model.no-type"),
        ({"model_type": 7}, "model.no-type"),
        ({"model_type": "no_such_type"}, "model.remote-code"),
        ({"model_type": "clip"}, "model.not-causal"),
        ({"model_type": "clip", "auto_map": {}}, "model.remote-code"),
        ({**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, "model.not-causal"),
        ({**LLAMA, "architectures": 5}, "model.not-causal"),
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, "model.not-causal"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "model.not-causal"),
        ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, "model.quantized"),
        ({**LLAMA, "quantization": {"bits": 4}}, "model.quantized"),
    ],
)
def test_what_cannot_be_trained_is_refused(config: dict[str, Any], code: str) -> None:
    _refused(config, code)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["_x", "model_file", "auto_map", "rope_type", "attn_implementation", "text_config"]
            )
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(_json)
def test_no_dangerous_key_survives_at_any_depth(value: Any) -> None:
    try:
        kept, _ = filter_config({**LLAMA, "rope_scaling": value, "label2id": [value]}, "")
    except ModelError:
        return
    assert not [key for key in _keys(kept) if key.startswith("_") or key.endswith("_implementation")]
    assert not {"model_file", "auto_map"} & set(_keys(kept))


def test_every_causal_type_has_native_code() -> None:
    for model_type in causal_types():
        assert "class" in keys_read(model_type), model_type
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3"} <= set(
        causal_types()
    )


def test_defaults_are_those_of_the_class() -> None:
    from transformers import Gemma2Config, MistralConfig

    for cls in (Gemma2Config, MistralConfig):
        built = cls()
        defaults = config_defaults(cls.model_type)
        assert config_types()[cls.model_type] == cls.__name__
        assert defaults["sliding_window"] == built.sliding_window
        assert defaults["max_position_embeddings"] == built.max_position_embeddings
    assert config_defaults("gpt-sw3") == {}


def _keys(value: Any) -> list[str]:
    if isinstance(value, list):
        return [key for item in value for key in _keys(item)]
    if isinstance(value, dict):
        return [*value, *(key for item in value.values() for key in _keys(item))]
    return []
