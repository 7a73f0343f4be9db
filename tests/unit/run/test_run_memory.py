"""The planner's arithmetic: what grows with what, and the split it chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.config.schema import AdapterConfig
from tunewright.models.footprint import count_trained
from tunewright.models.known import known_arch
from tunewright.run.memory import Facts, choose_split, need_memory, split_need

GIB = 2**30
ARCH = known_arch("Qwen/Qwen2.5-7B")
LORA = Facts(
    arch=ARCH, trained=count_trained(ARCH, AdapterConfig()), kind="cuda", dtype="bf16", precision="bf16",
    quantization="none", dropout=False, seq_len=2048, batch_size=16,
)  # fmt: skip
FULL = replace(LORA, trained=count_trained(ARCH, AdapterConfig(kind="none")), dtype="fp32")


def test_weights_and_states_by_hand():
    parts = need_memory(LORA, 2048, checkpointed=True).parts
    trained = LORA.trained.count
    assert parts["weights"] == 2 * ARCH.parameters
    assert (parts["adapters"], parts["optimizer"], parts["gradients"]) == (
        4 * trained,
        8 * trained,
        4 * trained,
    )
    assert parts["checkpoint copy"] == 0
    assert need_memory(replace(LORA, kind="mps"), 2048, True).parts["checkpoint copy"] == 12 * trained
    full = need_memory(FULL, 2048, checkpointed=True).parts
    assert (full["weights"], full["adapters"]) == (4 * ARCH.parameters, 0)
    assert full["optimizer"] == 8 * ARCH.parameters
    assert full["gradients"] >= 4 * ARCH.parameters


def test_the_need_is_the_sum_of_its_parts_and_grows_with_tokens():
    needs = [need_memory(LORA, tokens, checkpointed=False) for tokens in (1024, 4096, 16384)]
    assert all(need.peak == sum(need.parts.values()) for need in needs)
    assert needs[0].peak < needs[1].peak < needs[2].peak
    assert need_memory(LORA, 16384, checkpointed=True).peak < needs[2].peak
    assert need_memory(replace(LORA, quantization="nf4"), 1024, False).peak < needs[0].peak


@given(st.integers(10, 200), st.sampled_from([512, 2048, 4096]), st.integers(1, 32))
def test_the_chosen_split_fits_whenever_any_does(gib, seq_len, batch_size):
    facts = replace(LORA, seq_len=seq_len, batch_size=batch_size)
    rows, checkpointed = choose_split(facts, gib * GIB)
    assert 1 <= rows <= batch_size
    assert rows * seq_len <= max(8192, seq_len)
    if split_need(facts, rows, checkpointed).peak > gib * GIB:
        assert (rows, checkpointed) == (1, True)


def test_checkpointing_comes_only_when_nothing_fits_without():
    assert choose_split(LORA, 139 * GIB) == (4, False)
    tight = split_need(LORA, 1, False).peak
    assert choose_split(LORA, tight) == (1, False)
    rows, checkpointed = choose_split(LORA, tight - 1)
    assert checkpointed
    assert rows > 1


@pytest.mark.parametrize("asked", [1, 2, 64])
def test_what_is_set_stays(asked):
    assert choose_split(LORA, 139 * GIB, micro_batch_size=asked)[0] == min(asked, 16)
    assert choose_split(LORA, GIB, activation_checkpointing=False) == (1, False)
    assert choose_split(LORA, 139 * GIB, activation_checkpointing=True) == (4, True)
