"""Which rows of tokens go through the model together: as many as a number of tokens allows.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reward.prefix_tree import common_prefix

Group = Sequence[list[int]]


def minibatches(groups: Sequence[Group], tokens: int, shared: bool) -> Iterator[list[int]]:
    """The indices of groups of rows (a pair's two, or one alone), each once, a list per minibatch.

    A minibatch has at most ``tokens`` tokens, and one group at least. Where prefixes are ``shared``
    like beginnings stand together and what a row has in common with the one before it costs
    nothing; otherwise like lengths do, and padding costs.
    """
    if shared:
        order = sorted(range(len(groups)), key=lambda i: groups[i][0])
    else:
        order = sorted(range(len(groups)), key=lambda i: _longest(groups[i]))
    kept: list[int] = []
    cost = 0
    for index in order:
        group = groups[index]
        alone = _distinct(group, ()) if shared else len(group) * _longest(group)
        if shared and kept:
            cost += _distinct(group, groups[kept[-1]])
        else:
            cost = alone + _longest(group) * sum(len(groups[i]) for i in kept)
        if kept and cost > tokens:
            yield kept
            kept, cost = [], alone
        kept.append(index)
    if kept:
        yield kept


def _longest(group: Group) -> int:
    return max(map(len, group))


def _distinct(group: Group, before: Group) -> int:
    """How many tokens of a group are its own, at most, given the group that stands before it."""
    first, *others = group
    shared = common_prefix(before[0], first) if before else 0
    return len(first) - shared + sum(len(row) - common_prefix(first, row) for row in others)
