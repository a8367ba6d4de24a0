"""Token rows → a tree of their shared prefixes, in which every token stands once.

The two answers to a prompt share it, the turns of a dialogue share their history, and under causal
attention a token's hidden state depends on nothing behind it. So a minibatch of rows is packed into
one sequence without padding: the tree's segments one after the other, each attending to its
ancestors and to itself. That a prefix is shared is read off the token ids, never assumed: where a
chat template rewrites history, rows part earlier and are still right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

SHORTEST = 8  # tokens: a shorter stem costs more to share than to repeat


class Chain(NamedTuple):
    """Packed tokens that follow one another in a row, and the runs that stand before them there."""

    start: int
    end: int
    before: tuple[tuple[int, int], ...]


class PrefixTree(NamedTuple):
    """B rows as N packed tokens."""

    tokens: list[int]
    """(N,)"""
    positions: list[int]
    """(N,) how many tokens stand before this one in its row."""
    chains: list[Chain]
    """They cover the N tokens in order; a token attends to its chain up to itself and to all that
    stands before the chain."""
    ends: list[int]
    """(B,) the packed index of each row's last token."""
    paths: list[tuple[tuple[int, int], ...]]
    """(B,) the runs of packed tokens that make up each row."""


def prefix_tree(tokens: Sequence[Sequence[int]], shortest: int = SHORTEST) -> PrefixTree:
    """The tree of B rows of tokens. Raises ValueError for an empty row.

    A stem of fewer than ``shortest`` tokens is not shared.
    """
    rows = [list(row) for row in tokens]
    if not all(rows):
        raise ValueError("a row has no tokens, allowed are one or more")
    tree = PrefixTree([], [], [], [0] * len(rows), [()] * len(rows))
    order = sorted(range(len(rows)), key=rows.__getitem__)
    stems = _stems(rows, order, 0, shortest)
    waiting: list[_Stem] = [_Stem(stem, 0, (), starts=True) for stem in reversed(stems)]
    while waiting:
        stem = waiting.pop()
        common = common_prefix(rows[stem.rows[0]], rows[stem.rows[-1]], stem.depth)
        start = len(tree.tokens) if stem.starts else tree.chains.pop().start
        tree.tokens.extend(rows[stem.rows[0]][stem.depth : common])
        tree.positions.extend(range(stem.depth, common))
        end = len(tree.tokens)
        tree.chains.append(Chain(start, end, stem.before))
        for row in stem.rows:
            tree.ends[row] = end - 1  # for rows that go on, put right further down
            tree.paths[row] = (*stem.before, (start, end))
        rest = [row for row in stem.rows if len(rows[row]) > common]
        for number, branch in reversed([*enumerate(_stems(rows, rest, common, shortest))]):
            before = (*stem.before, (start, end)) if number else stem.before
            waiting.append(_Stem(branch, common, before, starts=number > 0))
    return tree


class _Stem(NamedTuple):
    """Rows, sorted, that are the same from ``depth`` on for a while."""

    rows: list[int]
    depth: int
    before: tuple[tuple[int, int], ...]
    starts: bool
    """Whether a chain begins here; the first branch of a stem goes on with its chain."""


def _stems(
    rows: Sequence[list[int]], order: Sequence[int], depth: int, shortest: int
) -> list[list[int]]:
    """Sorted rows, parted by their next tokens."""
    parted = groupby(order, key=lambda row: rows[row][depth : depth + shortest])
    return [list(group) for _, group in parted]


def common_prefix(first: list[int], last: list[int], known: int = 0) -> int:
    """How many tokens two rows share from the start on, ``known`` of which are known."""
    low, high = known, min(len(first), len(last))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == last[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
