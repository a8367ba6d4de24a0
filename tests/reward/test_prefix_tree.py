"""Rows as a tree of their prefixes: every token once, and every row to be found again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.prefix_tree import PrefixTree, prefix_tree

PROMPT, GOOD, BAD = [1, 2, 3, 4], [5, 6, 9], [7, 9]


def read_back(tree: PrefixTree, row: int) -> tuple[list[int], list[int]]:
    """The tokens and positions that the row's last token attends to."""
    end = tree.ends[row]
    chain = next(c for c in tree.chains if c.start <= end < c.end)
    runs = [*chain.before, (chain.start, end + 1)]
    indices = [i for start, stop in runs for i in range(start, stop)]
    return [tree.tokens[i] for i in indices], [tree.positions[i] for i in indices]


def test_it_works():
    tree = prefix_tree([PROMPT + GOOD, PROMPT + BAD], shortest=1)
    assert tree.tokens == PROMPT + GOOD + BAD
    assert tree.positions == [0, 1, 2, 3, 4, 5, 6, 4, 5]
    assert tree.chains == [(0, 7, ()), (7, 9, ((0, 4),))]
    assert tree.ends == [6, 8]


def test_a_dialogue_is_one_chain_with_its_rejected_answers_beside():
    asked = [4, 4]
    history = [PROMPT, PROMPT + GOOD + asked, PROMPT + GOOD + asked + GOOD + asked]
    rows = [h + answer for h in history for answer in (GOOD, BAD)]
    tree = prefix_tree(rows, shortest=1)
    assert len(tree.tokens) == len(history[-1]) + len(GOOD) + 3 * len(BAD)


def test_answers_to_one_prompt_share_it_and_a_repeated_row_costs_nothing():
    rows = [PROMPT + [n] * 4 for n in (5, 6, 7, 5)]
    tree = prefix_tree(rows)
    assert len(tree.tokens) == 3 * 8  # a stem of four tokens is repeated
    assert tree.ends[0] == tree.ends[3]
    assert len(prefix_tree(rows, shortest=4).tokens) == 4 + 3 * 4


def test_an_empty_row_is_refused():
    with pytest.raises(ValueError, match="a row has no tokens"):
        prefix_tree([PROMPT, []])


rows_of_tokens = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8
)


@given(rows_of_tokens, st.integers(1, 5))
def test_every_row_is_found_again(rows, shortest):
    tree = prefix_tree(rows, shortest)
    for number, row in enumerate(rows):
        assert read_back(tree, number) == (row, list(range(len(row))))


@given(rows_of_tokens)
def test_each_distinct_prefix_is_one_token(rows):
    distinct = {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}
    assert len(prefix_tree(rows, shortest=1).tokens) == len(distinct)


@given(rows_of_tokens, st.integers(1, 5))
def test_chains_cover_the_tokens_and_begin_after_what_they_continue(rows, shortest):
    tree = prefix_tree(rows, shortest)
    bounds = [(chain.start, chain.end) for chain in tree.chains]
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == len(tree.tokens)
    assert all(stop <= c.start for c in tree.chains for _, stop in c.before)
