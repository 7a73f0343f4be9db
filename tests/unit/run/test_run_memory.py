"""The planner's arithmetic: what grows with what, and the split it chooses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.config.schema import AdapterConfig
from tunewright.errors import ConfigError
from tunewright.models.activations import Pass, logits_bytes
from tunewright.models.fast_activations import seen_keys
from tunewright.models.footprint import count_trained
from tunewright.models.known import known_arch
from tunewright.run.memory import Facts, need_memory, split_need
from tunewright.run.remedies import check_fits, list_remedies
from tunewright.run.split import choose_split

GIB = 2**30
ARCH = known_arch("Qwen/Qwen2.5-7B")
LORA = Facts(
    arch=ARCH, trained=count_trained(ARCH, AdapterConfig()), kind="cuda", dtype="bf16", precision="bf16",
    quantization="none", dropout=False, seq_len=2048, batch_size=16,
)  # fmt: skip
FULL = replace(LORA, trained=count_trained(ARCH, AdapterConfig(kind="none")), dtype="fp32")


def test_weights_and_states_by_hand():
    parts = need_memory(LORA, 2048, checkpointed=28).parts
    trained = LORA.trained.count
    assert parts["weights"] == 2 * ARCH.parameters
    assert (parts["adapters"], parts["optimizer"], parts["gradients"]) == (
        4 * trained,
        8 * trained,
        4 * trained,
    )
    assert parts["checkpoint copy"] == 0
    assert need_memory(replace(LORA, kind="mps"), 2048, 28).parts["checkpoint copy"] == 12 * trained
    full = need_memory(FULL, 2048, checkpointed=28).parts
    assert (full["weights"], full["adapters"]) == (4 * ARCH.parameters, 0)
    assert full["optimizer"] == 8 * ARCH.parameters
    assert full["gradients"] >= 4 * ARCH.parameters


def test_the_need_is_the_sum_of_its_parts_and_grows_with_tokens():
    needs = [need_memory(LORA, tokens, checkpointed=0) for tokens in (1024, 4096, 16384)]
    assert all(need.peak == sum(need.parts.values()) for need in needs)
    assert needs[0].peak < needs[1].peak < needs[2].peak
    assert need_memory(LORA, 16384, checkpointed=28).peak < needs[2].peak
    assert need_memory(replace(LORA, quantization="nf4"), 1024, 0).peak < needs[0].peak


@pytest.mark.parametrize(("document", "matrices"), [(0, 2), (2048, 3)])
def test_an_nf4_base_is_read_back_a_few_matrices_at_a_time(document, matrices):
    plain = replace(LORA, fast_document=document)
    packed = replace(plain, quantization="nf4")
    more = need_memory(packed, 2048, 0).parts["workspace"] - need_memory(plain, 2048, 0).parts["workspace"]
    assert more == matrices * ARCH.hidden_size * ARCH.intermediate_size * 2
    on_mac = replace(LORA, kind="mps")
    parts = [need_memory(replace(on_mac, quantization=kind), 2048, 0).parts for kind in ("none", "4bit")]
    assert parts[0]["workspace"] == parts[1]["workspace"]


def test_each_layer_that_recomputes_takes_less():
    peaks = [need_memory(LORA, 8192, checkpointed=layers).peak for layers in range(ARCH.layers + 1)]
    assert all(more > less for more, less in pairwise(peaks[:-1]))
    # The last one too keeps its input only, but what a layer recomputes is then the peak.
    assert peaks[-1] <= peaks[-2]


def test_a_step_holds_no_more_tokens_than_it_has():
    short = replace(LORA, step_tokens=3000)
    assert split_need(short, 4, 0) == need_memory(short, 3000, 0, micro_batches=1)
    assert split_need(short, 1, 0) == need_memory(short, 2048, 0, micro_batches=2)


@given(st.integers(10, 200), st.sampled_from([512, 2048, 4096]), st.integers(1, 32))
def test_the_chosen_split_fits_whenever_any_does(gib, seq_len, batch_size):
    facts = replace(LORA, seq_len=seq_len, batch_size=batch_size)
    split = choose_split(facts, gib * GIB)
    assert 1 <= split.rows <= batch_size
    assert split.rows * seq_len <= max(8192, seq_len)
    assert split.need == split_need(facts, split.rows, split.checkpointed)
    if split.need.peak > gib * GIB:
        assert (split.rows, split.checkpointed) == (1, ARCH.layers)
    elif split.checkpointed:
        assert split_need(facts, split.rows, split.checkpointed - 1).peak > gib * GIB


def test_layers_recompute_only_when_no_busy_split_fits_without_and_as_few_as_do():
    assert _split(LORA, 139 * GIB) == (4, 0)
    tight = split_need(LORA, 1, 0).peak
    assert _split(LORA, tight) == (1, 0)
    assert _split(LORA, tight - 1) == (1, 1)
    least = split_need(LORA, 1, ARCH.layers).peak
    assert _split(LORA, least) == (1, ARCH.layers)


def test_short_rows_go_together_so_that_the_device_has_work():
    short = replace(LORA, seq_len=256)
    tight = split_need(short, 8, 0).peak
    assert _split(short, tight) == (8, 0)
    rows, checkpointed = _split(short, tight - 1)
    assert rows == 8
    assert checkpointed > 0


@pytest.mark.parametrize("asked", [1, 2, 16])
def test_what_is_set_stays(asked):
    assert _split(LORA, 139 * GIB, rows=asked) == (asked, 0 if asked < 16 else 11)
    assert _split(LORA, GIB, checkpointed=0) == (1, 0)
    assert _split(LORA, 139 * GIB, checkpointed=ARCH.layers) == (4, ARCH.layers)
    assert _split(LORA, 139 * GIB, rows=asked, checkpointed=5) == (asked, 5)


def test_every_remedy_is_named_with_the_least_that_it_takes():
    facts = replace(LORA, seq_len=8192)
    usable = split_need(facts, 2, 20).peak
    found = list(list_remedies(facts, 2, usable))
    assert found[0] == "train.activation_checkpointing: 20 with train.micro_batch_size: 2"
    assert any(remedy.startswith("data.seq_len: 4096") for remedy in found)
    tight = list(list_remedies(facts, 1, 12 * GIB))
    assert [remedy.split(":")[0] for remedy in tight] == ["model.quantization"]
    full = list(list_remedies(FULL, 1, 30 * GIB))
    assert full == ["adapter.kind: lora with checkpointing and train.micro_batch_size: 1"]
    assert list(list_remedies(LORA, 1, GIB)) == []


def test_a_device_that_does_not_tell_its_memory_refuses_nothing():
    split = choose_split(LORA, 0)
    assert (split.rows, split.checkpointed) == (4, 0)
    check_fits(LORA, split, 0, "a device")
    with pytest.raises(ConfigError) as caught:
        check_fits(LORA, split, GIB, "a device")
    assert caught.value.code == "config.memory"


def test_fast_layers_keep_less_than_plain_ones_and_more_of_longer_documents():
    plain = replace(LORA, kind="cpu")
    fast = replace(plain, fast_document=64)
    kept = [
        need_memory(replace(fast, fast_document=n), 8192, 0).parts["activations"] for n in (64, 512, 1024)
    ]
    assert kept[0] < kept[1] < kept[2]
    assert need_memory(replace(fast, fast_document=4096), 8192, 0).parts["activations"] == kept[2]
    assert kept[0] < need_memory(plain, 8192, 0).parts["activations"]


def test_fast_layers_on_cuda_keep_no_probabilities_and_half_of_what_plain_ones_do():
    plain, fast, longer = (
        need_memory(replace(LORA, fast_document=n), 8192, 0).parts["activations"] for n in (0, 64, 4096)
    )
    assert fast == longer
    assert 0.3 < fast / plain < 0.6


def test_cuda_takes_more_logits_at_once():
    cpu, cuda = (
        logits_bytes(ARCH, LORA.trained, Pass(8192, 8192, "bf16", dropout=False, kind=kind, checkpointed=0))
        for kind in ("cpu", "cuda")
    )
    assert cpu < cuda < 2**30


def test_probabilities_of_a_block_of_queries_end_with_the_block():
    assert seen_keys(100) == 100
    assert seen_keys(512) == (256 * 256 + 256 * 512) / 512
    assert seen_keys(5000) == seen_keys(1024) == 640


def test_a_head_that_trains_takes_more_than_a_frozen_one():
    trains = replace(LORA, trained=count_trained(ARCH, AdapterConfig(modules_to_save=["lm_head"])))
    one = Pass(4096, 4096, "bf16", dropout=False, kind="cpu", checkpointed=0)
    frozen = logits_bytes(ARCH, LORA.trained, one)
    logits = ARCH.vocab_size * (2**23 // ARCH.vocab_size)
    assert frozen == 2 * (logits + 2 * 4096 * ARCH.hidden_size) + 4 * 2**20
    assert frozen < logits_bytes(ARCH, trains.trained, one)
    assert logits_bytes(ARCH, FULL.trained, one) == logits_bytes(ARCH, trains.trained, one)


def _split(facts, memory_bytes, **asked):
    split = choose_split(facts, memory_bytes, **asked)
    return split.rows, split.checkpointed


def test_16_bit_code_on_a_cpu_grows_with_widths_up_to_a_full_cache():
    cpu = replace(LORA, kind="cpu")
    work = [need_memory(cpu, 2048, 0, widths=widths).parts["workspace"] for widths in (1, 3, 100, 1000)]
    assert work[1] - work[0] == 2 * 15 * 2**20
    assert work[1] < work[2] == work[3]
    for other in (LORA, replace(cpu, precision="fp32", dtype="fp32")):
        assert need_memory(other, 2048, 0, widths=1) == need_memory(other, 2048, 0, widths=100)


def test_the_proof_of_fast_layers_on_a_cpu_leaves_code_of_its_shapes():
    plain = replace(LORA, kind="cpu")
    fast = replace(plain, fast_document=512)

    def more(widths: int, **changes: str) -> int:
        """Bytes that fast layers need beside what grows with tokens."""
        needs = [need_memory(replace(one, **changes), 0, 0, widths=widths).peak for one in (plain, fast)]
        return needs[1] - needs[0]

    assert more(1) == 50 * 2**20
    assert more(1000) == 0, "it lies in the same cache"
    assert more(1, precision="fp32", dtype="fp32") == more(1, kind="cuda") == 0


def test_moments_in_8_bits_and_paged_ones():
    plain, small, paged = (
        need_memory(replace(LORA, optimizer=name), 2048, 28)
        for name in ("adamw", "adamw_8bit", "paged_adamw")
    )
    trained = LORA.trained.count
    assert plain.parts["optimizer"] == 8 * trained
    assert 2.03 * trained <= small.parts["optimizer"] < 2.04 * trained
    assert paged.parts["optimizer"] + paged.host["paged optimizer"] == 8 * trained
    # 16 x 3584 numbers stay: A of q, k, v, o, gate and up, B of q, o and down; so does B of k and v.
    assert paged.parts["optimizer"] == 8 * 28 * 16 * (9 * 3584 + 2 * 512)
    assert (plain.host["paged optimizer"], plain.host["checkpoint copy"]) == (0, 12 * trained)


def test_held_out_rows_count_where_they_are_longer_than_steps():
    short = replace(LORA, step_tokens=64)
    assert split_need(replace(short, held_out_tokens=64), 1, 28) == split_need(
        replace(short, held_out_tokens=0), 1, 28
    )
    long = split_need(replace(short, held_out_tokens=2048), 1, 28).peak
    assert split_need(short, 1, 28).peak == long > split_need(replace(short, held_out_tokens=64), 1, 28).peak
    # What trains keeps all layers, which is more than any evaluation of as many tokens.
    assert split_need(LORA, 1, 0) == need_memory(LORA, 2048, 0)
