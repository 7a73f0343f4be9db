"""Counts of parameters, bytes and operations against published figures and real modules."""

from __future__ import annotations

import pytest

from tunewright.config.schema import AdapterConfig
from tunewright.errors import ConfigError
from tunewright.models.footprint import (
    base_bytes,
    count_trained,
    flops_per_token,
    forward_flops_per_token,
    linear_parameters,
)
from tunewright.models.known import implied_shapes, known_arch, known_models


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
    ],
)
def test_known_models_have_their_published_number_of_parameters(name, parameters):
    assert known_arch(name).parameters == parameters


def test_what_is_not_in_the_table_is_not_guessed():
    assert known_arch("someone/unheard-of") is None
    assert implied_shapes({"model_type": "gpt2"}) is None
    assert len(known_models()) == len(set(known_models()))


def test_lora_parameters_by_hand():
    arch = known_arch("mistralai/Mistral-7B-Instruct-v0.2")
    # q and o 4096 + 4096, k and v 1024 + 4096, three MLP matrices 14336 + 4096, in each of 32 layers.
    by_hand = 16 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert count_trained(arch, AdapterConfig()).count == by_hand == 41_943_040
    some = count_trained(arch, AdapterConfig(targets=("q_proj", "v_proj"), rank=8))
    assert some.lora == 8 * 32 * (8192 + 5120)
    head = count_trained(arch, AdapterConfig(modules_to_save=("lm_head",)))
    assert head.other == 32000 * 4096
    assert count_trained(arch, AdapterConfig(kind="none")).count == arch.parameters
    with pytest.raises(ConfigError, match="no module of the model matches"):
        count_trained(arch, AdapterConfig(targets=("q_prj",)))


def test_bytes_of_the_base():
    arch = known_arch("Qwen/Qwen2.5-7B")
    assert base_bytes(arch, "bf16") == 2 * arch.parameters
    small = base_bytes(arch, "bf16", "nf4") - 2 * (arch.parameters - linear_parameters(arch))
    assert 0.51 < small / linear_parameters(arch) <= 0.53


def test_operations_of_a_token_by_hand():
    arch = known_arch("Qwen/Qwen2.5-7B")
    linear, head, lora = 6_525_288_448, 152_064 * 3584, 40_370_176
    assert linear_parameters(arch) == linear
    trained = count_trained(arch, AdapterConfig())
    assert trained.lora == lora
    attention = 2 * 28 * 3584 * 4096
    plain = flops_per_token(arch, trained, document_length=4096, checkpointed=0)
    assert plain == 4 * linear + 6 * head + 6 * lora + 3 * attention
    forward = forward_flops_per_token(arch, trained, document_length=4096)
    assert forward == 2 * linear + 2 * head + 2 * lora + attention
    checkpointed = flops_per_token(arch, trained, document_length=4096, checkpointed=arch.layers)
    assert checkpointed - plain == 2 * linear + 2 * lora + attention
