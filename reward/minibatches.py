"""Which rows of tokens go through the model together: as many as a number of tokens allows.

Standard library only.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from reward.prefix_tree import common_prefix

Group = Sequence[list[int]]


class Minibatch(NamedTuple):
    """Groups of rows that go through the model together."""

    groups: list[int]
    """Their indices."""
    tokens: int
    """How many tokens that are."""


def minibatches(groups: Sequence[Group], tokens: int, shared: bool) -> Iterator[Minibatch]:
    """Groups of rows (a pair's two, or one alone), each in one minibatch.

    A minibatch has at most ``tokens`` tokens, and one group at least. Where prefixes are ``shared``
    like beginnings stand together and every distinct token counts once; otherwise like lengths do,
    and padding counts.
    """
    if shared:
        order = sorted(range(len(groups)), key=lambda i: groups[i][0])
    else:
        order = sorted(range(len(groups)), key=lambda i: max(map(len, groups[i])))
    kept: list[int] = []
    rows: list[list[int]] = []
    cost = 0
    for index in order:
        grown = _grown(cost, rows, groups[index], shared)
        if kept and grown > tokens:
            yield Minibatch(kept, cost)
            kept, rows = [], []
            grown = _grown(0, rows, groups[index], shared)
        kept.append(index)
        cost = grown
    if kept:
        yield Minibatch(kept, cost)


def _grown(cost: int, rows: list[list[int]], group: Group, shared: bool) -> int:
    """What ``rows``, sorted if shared, cost with a group put in."""
    if not shared:
        rows.extend(group)
        return len(rows) * max(map(len, group))  # it is the longest so far
    for row in group:
        place = bisect(rows, row)
        beside = rows[max(place - 1, 0) : place + 1]
        cost += len(row) - max((common_prefix(other, row) for other in beside), default=0)
        rows.insert(place, row)
    return cost
