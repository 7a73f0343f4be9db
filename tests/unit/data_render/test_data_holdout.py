from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.holdout import choose_held_out, fingerprint
from tunewright.types import Example, SourceRef


def prints(*values: int) -> list[bytes]:
    return [bytes([value]) for value in values]


@given(
    sources=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=30), min_size=1, max_size=3),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_equal_rows_go_the_same_way_and_no_source_is_emptied(
    sources: list[list[int]], share: float, seed: int
) -> None:
    rows = [prints(*source) for source in sources]
    held = choose_held_out(rows, share=share, seed=seed)
    pairs = list(zip(chain(*rows), chain(*held), strict=True))
    assert len({p for p, _ in pairs}) == len(set(pairs))
    assert all(not all(flags) for flags in held)
    assert held == choose_held_out(rows, share=share, seed=seed)


def test_the_share_is_met_and_a_small_share_holds_out_one_row() -> None:
    rows = [[index.to_bytes(2) for index in range(1000)]]
    assert sum(choose_held_out(rows, share=0.05, seed=0)[0]) == 50
    assert sum(choose_held_out([prints(*range(10))], share=0.01, seed=0)[0]) == 1
    assert sum(choose_held_out(rows, share=0, seed=0)[0]) == 0
    assert choose_held_out([], share=0.5, seed=0) == []


def test_the_seed_changes_the_choice() -> None:
    rows = [prints(*range(100))]
    assert choose_held_out(rows, share=0.2, seed=0) != choose_held_out(rows, share=0.2, seed=1)


def test_a_fingerprint_is_of_tokens_weights_and_parts() -> None:
    def row(*parts: tuple[list[int], list[float]], line: int = 1) -> tuple[Example, ...]:
        return tuple(
            Example(np.array(t, np.int32), np.array(w, np.float32), SourceRef("a", line)) for t, w in parts
        )

    same = fingerprint(row(([1, 2], [0, 1])))
    assert same == fingerprint(row(([1, 2], [0, 1]), line=9))
    others = [row(([1, 3], [0, 1])), row(([1, 2], [0, 0.5])), row(([1], [0]), ([2], [1]))]
    assert same not in {fingerprint(other) for other in others}
