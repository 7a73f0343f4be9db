from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.data.shard import EpochOrder, permute, rank_rows


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
def test_permute_is_a_bijection_for_any_length(n: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


@given(n=st.integers(1, 2000), seed=st.integers(0, 99), data=st.data())
def test_any_slice_equals_that_slice_of_the_whole(n: int, seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    whole = permute(np.arange(n), n, seed)
    assert permute(np.arange(start, stop), n, seed).tolist() == whole[start:stop].tolist()


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = {
        tuple(permute(np.arange(50), 50, seed, epoch).tolist()) for seed in range(3) for epoch in range(5)
    }
    assert len(orders) == 15


def test_the_order_never_changes_between_versions() -> None:
    assert permute(np.arange(10), 10, 0, 0).tolist() == [5, 7, 2, 6, 8, 0, 3, 1, 4, 9]


def test_each_place_is_about_equally_likely() -> None:
    firsts = np.array([permute(np.arange(1), 12, seed)[0] for seed in range(2400)])
    counts = np.bincount(firsts, minlength=12)
    # 200 expected in each of 12 places; 5 standard deviations of a binomial are about 68.
    assert counts.min() > 132
    assert counts.max() < 268


@settings(max_examples=50)
@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])), min_size=1, max_size=4
    ),
    seed=st.integers(0, 50),
)
def test_a_weighted_source_runs_through_its_rows_evenly(sizes: list[tuple[int, float]], seed: int) -> None:
    order = EpochOrder(sizes, seed)
    if order.slots_per_epoch == 0:
        return
    epochs = 4
    seen = [np.zeros(rows, int) for rows, _ in sizes]
    for epoch in range(epochs):
        begin = epoch * order.slots_per_epoch
        slots = order.rows(begin, begin + order.slots_per_epoch)
        for source, (rows, weight) in enumerate(sizes):
            mine = slots.row_N[slots.source_N == source]
            assert len(mine) == round(weight * rows)
            np.add.at(seen[source], mine, 1)
    for counts in seen:
        assert counts.max() - counts.min() <= 1


def test_half_weight_sees_the_other_half_in_the_next_epoch() -> None:
    order = EpochOrder([(10, 0.5)], 3)
    first, second = (set(order.rows(5 * e, 5 * e + 5).row_N.tolist()) for e in (0, 1))
    assert first | second == set(range(10))


def test_sources_are_mixed_within_an_epoch() -> None:
    sources = EpochOrder([(50, 1.0), (50, 1.0)], 0).rows(0, 100).source_N
    assert 10 < sources[:50].sum() < 40


@pytest.mark.parametrize("n", [1, 2, 3, 1 << 20])
def test_large_and_small_domains_need_little_time(n: int) -> None:
    some = permute(np.arange(min(n, 64)), n, 1, 2)
    assert len(set(some.tolist())) == min(n, 64)


@given(lengths=st.lists(st.integers(1, 99), max_size=60), world=st.integers(1, 17))
def test_ranks_get_each_row_once_and_equal_numbers(lengths: list[int], world: int) -> None:
    shares = rank_rows(lengths, world)
    assert len(shares) == world
    assert sorted(row for share in shares for row in share) == list(range(len(lengths)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share == sorted(share) for share in shares)
