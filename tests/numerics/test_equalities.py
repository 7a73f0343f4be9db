"""Each row of the equality table on each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from engine_equalities import compare_steps, resumed, train
from equality_table import EQUALITIES, Equality
from families import FAMILIES
from tunewright.engines.torch.engine import build_engine

# One with tied weights and one with window and soft caps; `make numerics` and `make slow` run all.
SAMPLE = ("qwen2", "gemma2")
ROWS = {equality.name: equality for equality in EQUALITIES}
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # TRL, accelerate and PEFT warn of their own deprecations.
    pytest.mark.filterwarnings("ignore"),
]
FolderOf = Callable[[str], Path]


def cells() -> list[object]:
    return [
        pytest.param(
            equality,
            family,
            id=f"{family}: {equality.name}",
            marks=[pytest.mark.slow] if equality.sampled and family not in SAMPLE else [],
        )
        for family in FAMILIES
        for equality in EQUALITIES
    ]


@pytest.mark.parametrize(("equality", "family"), cells())
def test_equality_holds(equality: Equality, family: str, family_folder: FolderOf, tmp_path: Path) -> None:
    difference = equality.measure(family_folder(family), tmp_path)
    assert equality.holds(difference), f"{difference:.1e} for {equality.tolerance:.0e}: {equality.reason}"


def test_all_weights_resume_bitwise(family_folder: FolderOf, tmp_path: Path) -> None:
    assert resumed(family_folder("qwen2"), tmp_path, kind="none") == 0


def test_two_calls_add_up_to_one(family_folder: FolderOf) -> None:
    spec = build_spec(family_folder("llama"))
    documents = draw_documents([9, 12])
    halves = [lay_out([[document]]) for document in documents]
    together, apart = build_engine(spec), build_engine(spec)
    expected = train(together, halves, documents, steps=1)
    for half in halves:
        apart.forward_backward([half], denominator=total_weight(documents))
    assert compare_steps([apart.optim_step(lr=1e-2, skip_above=None).read()], expected) <= 1e-5


def test_a_row_that_compares_nothing_does_not_hold() -> None:
    row = ROWS["bf16 compute ≈ fp32"]
    assert [row.holds(difference) for difference in (0.0, 1e-3, 1.0, float("nan"))] == [
        False, True, False, False,
    ]  # fmt: skip
