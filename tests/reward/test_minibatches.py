"""Groups of rows are put together up to a number of tokens, none twice and none left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.minibatches import minibatches
from reward.prefix_tree import prefix_tree

ROW = st.lists(st.integers(0, 2), min_size=1, max_size=12)
GROUPS = st.lists(st.lists(ROW, min_size=1, max_size=3), max_size=12)


def cost(groups, shared: bool) -> int:
    rows = [row for group in groups for row in group]
    if shared:
        return len(prefix_tree(rows, shortest=1).tokens)
    return len(rows) * max(map(len, rows))


def test_it_works():
    stem, other = [1] * 10, [2] * 4
    pairs = [([*stem, 3], [*stem, 4]), (other, other), ([*stem, 5], [*stem, 6])]
    assert list(minibatches(pairs, 14, shared=True)) == [[0, 2], [1]]  # 10 + 4, then 4
    assert list(minibatches(pairs, 13, shared=True)) == [[0], [2], [1]]
    assert list(minibatches(pairs, 22, shared=False)) == [[1], [0], [2]]  # 2 of 4, 2 of 11 …
    assert list(minibatches(pairs, 44, shared=False)) == [[1, 0], [2]]
    assert list(minibatches([], 5, shared=True)) == []


@pytest.mark.parametrize("shared", [True, False])
@given(groups=GROUPS, tokens=st.integers(1, 60))
def test_every_group_is_in_one_minibatch_that_is_not_too_large(shared, groups, tokens):
    found = list(minibatches(groups, tokens, shared))
    assert sorted(i for part in found for i in part) == list(range(len(groups)))
    for part in found:
        assert len(part) == 1 or cost([groups[i] for i in part], shared) <= tokens
