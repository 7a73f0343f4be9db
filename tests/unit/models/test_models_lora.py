from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ConfigError
from tunewright.models.lora import initial_values, match_targets

NAMES = [
    f"model.layers.{layer}.{part}"
    for layer in range(12)
    for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
] + ["lm_head"]


def test_all_linear_is_everything_but_the_head() -> None:
    assert match_targets(NAMES, "all-linear", head="lm_head") == NAMES[:-1]


def test_names_match_last_parts_only() -> None:
    assert match_targets(NAMES, ("q_proj",)) == [name for name in NAMES if name.endswith("q_proj")]
    assert match_targets(NAMES, ("layers.1.mlp.up_proj",)) == ["model.layers.1.mlp.up_proj"]
    assert match_targets(NAMES, ("model.layers.0.mlp.up_proj", "lm_head")) == [NAMES[2], "lm_head"]


def test_a_regex_matches_the_full_name() -> None:
    assert match_targets(NAMES, r".*\.(1|11)\.mlp.*") == [
        "model.layers.1.mlp.up_proj",
        "model.layers.11.mlp.up_proj",
    ]


@pytest.mark.parametrize(
    ("targets", "hint"),
    [
        (("q_proj", "qproj"), "did you mean q_proj?"),
        (("proj",), "did you mean"),
        ("q_proj", "[q_proj]"),
        (("zzz",), "up_proj"),
        ("layers", "modules of this model"),
    ],
)
def test_a_target_without_module_is_named(targets: str | tuple[str, ...], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        match_targets(NAMES, targets)
    assert caught.value.code == "config.unknown-target"
    assert hint in str(caught.value)


def test_no_linear_module_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError):
        match_targets(["lm_head"], "all-linear", head="lm_head")


def test_a_broken_regex_is_explained() -> None:
    with pytest.raises(ConfigError, match="regular expression"):
        match_targets(NAMES, "(q_proj")


@given(st.integers(0, 2**32 - 1), st.text(max_size=30), st.integers(1, 500), st.integers(1, 16))
def test_start_values_depend_on_seed_and_name_only(seed: int, name: str, width: int, rank: int) -> None:
    values = initial_values(seed, name, width, rank)
    assert values.dtype == np.float32
    assert values.shape == (rank, width)
    assert np.array_equal(values, initial_values(seed, name, width, rank))
    assert not np.array_equal(values, initial_values(seed, name + "x", width, rank))
    assert not np.array_equal(values, initial_values(seed + 1, name, width, rank))
    assert np.abs(values).max() <= np.float32(1 / math.sqrt(width))


def test_start_values_follow_the_law_of_peft() -> None:
    """Uniform in ±1/sqrt(in): what kaiming_uniform_(a=sqrt(5)) gives for a matrix of `in` columns."""
    import torch

    reference = torch.empty(64, 400)
    torch.nn.init.kaiming_uniform_(reference, a=math.sqrt(5), generator=torch.Generator().manual_seed(0))
    ours = initial_values(0, "a", 400, 64)
    assert ours.std() == pytest.approx(reference.std().item(), rel=0.02)
    assert np.abs(ours).max() == pytest.approx(reference.abs().max().item(), rel=0.01)
    assert abs(ours.mean()) < 1e-3


def test_start_values_never_change() -> None:
    """Runs of today must start like runs of tomorrow."""
    first = initial_values(7, "model.layers.0.self_attn.q_proj", 4, 1)
    np.testing.assert_array_equal(first, np.array(GOLDEN, np.float32))


GOLDEN = [[-0.30507782101631165, -0.07554382085800171, 0.417054146528244, -0.3531409800052643]]
