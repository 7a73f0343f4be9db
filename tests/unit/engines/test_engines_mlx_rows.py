"""A packed batch as rows of single documents: nothing lost, nothing twice, and the cheapest cut."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_cases import draw_documents, lay_out
from tunewright.engines.mlx.rows import Grouping, cheapest_groups, split_rows

LENGTHS = st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=4), min_size=1, max_size=3)
GROUPINGS = st.builds(Grouping, st.sampled_from([1, 16, 64]), st.sampled_from([0, 40, 5000]), st.booleans())


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, grouping=GROUPINGS)
def test_each_label_is_there_once_behind_its_own_document(lengths, grouping):
    rows = [draw_documents(row, seed=b) for b, row in enumerate(lengths)]
    found = []
    for group in split_rows(lay_out(rows, width=300), grouping):
        width = group.tokens_KN.shape[1]
        assert width % grouping.width_step == 0
        for place, label, weight in zip(group.places_L, group.labels_L, group.weights_L, strict=True):
            if weight > 0:
                k, at = divmod(int(place), width)
                found.append((tuple(group.tokens_KN[k, : at + 1]), int(label), float(weight)))
    expected = [
        (tuple(tokens[: at + 1]), int(tokens[at + 1]), float(weights[at + 1]))
        for row in rows
        for tokens, weights in row
        for at in np.flatnonzero(weights[1:] > 0)
    ]
    assert sorted(found) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 20), min_size=1, max_size=6, unique=True),
    count=st.integers(1, 5),
    pass_cost=st.integers(0, 100),
)
def test_no_other_cut_is_cheaper(widths, count, pass_cost):
    counts = {16 * width: count for width in sorted(widths)}

    def cost(groups):
        return sum(group[-1] * count * len(group) + pass_cost for group in groups)

    ordered = list(counts)
    cuts = [cut for size in range(len(ordered)) for cut in combinations(range(1, len(ordered)), size)]
    every = [[ordered[i:j] for i, j in zip((0, *cut), (*cut, len(ordered)), strict=True)] for cut in cuts]
    best = cheapest_groups(counts, Grouping(16, pass_cost, few_shapes=False))
    assert [width for group in best for width in group] == ordered
    assert cost(best) == min(map(cost, every))


def test_few_shapes_repeat():
    grouping = Grouping(64, 512, few_shapes=True)
    shapes = set()
    for count in range(33, 41):
        (rows,) = split_rows(lay_out([draw_documents([30] * count)]), grouping)
        shapes.add((rows.tokens_KN.shape, rows.labels_L.shape))
    assert len({shape for shape, _ in shapes}) == 1
    assert len(shapes) <= 3


def test_documents_without_a_label_cost_nothing():
    tokens, weights = draw_documents([40])[0]
    assert split_rows(lay_out([[(tokens, np.zeros_like(weights))]]), Grouping(16, 32, False)) == []
