"""Groups of rows are put together up to a number of tokens, none twice and none left out."""

from __future__ import annotations

import gzip
import json
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import demo
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
    assert list(minibatches(pairs, 14, shared=True)) == [([0, 2], 10 + 4), ([1], 4)]
    assert list(minibatches(pairs, 13, shared=True)) == [([0], 12), ([2], 12), ([1], 4)]
    assert list(minibatches(pairs, 22, shared=False)) == [([1], 2 * 4), ([0], 22), ([2], 22)]
    assert list(minibatches(pairs, 44, shared=False)) == [([1, 0], 4 * 11), ([2], 22)]
    assert list(minibatches([], 5, shared=True)) == []


@pytest.mark.parametrize("shared", [True, False])
@given(groups=GROUPS, tokens=st.integers(1, 60))
def test_every_group_is_in_one_minibatch_that_is_not_too_large(shared, groups, tokens):
    found = list(minibatches(groups, tokens, shared))
    assert sorted(i for part, _ in found for i in part) == list(range(len(groups)))
    for part, computed in found:
        assert len(part) == 1 or computed <= tokens
        assert cost([groups[i] for i in part], shared) == computed


def test_answers_to_one_question_are_computed_once():
    """Real questions with four ranked answers each, as six pairs: twelve rows of one prompt."""
    source = Path(demo.__file__).parent / "data" / "qa-feedback-ranked.json.gz"
    with gzip.open(source, "rt", encoding="utf-8") as file:
        items = json.load(file)[:5]
    for item in items:
        prompt = f"{item['passages']} {item['question']}".encode()
        answers = [item[f"prediction {n}"].encode() for n in range(1, 5)]
        rows = [[*prompt, *answer] for answer in answers]
        pairs = list(combinations(rows, 2))
        (found,) = minibatches(pairs, 10**6, shared=True)
        assert found.tokens == cost(pairs, shared=True)
        assert found.tokens <= len(prompt) + sum(map(len, answers))
        (padded,) = minibatches(pairs, 10**6, shared=False)
        assert padded.tokens > 5 * found.tokens
