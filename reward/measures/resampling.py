"""Intervals and tests that know that the pairs of a dialogue are not independent.

The unit that is drawn is the dialogue root, never the pair (the cluster bootstrap; Field and Welsh
2007, "Bootstrapping clustered data"). G columns of figures, R roots, B draws. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward.measures.accuracy import (
    GROUPS,
    ScoredPair,
    accuracy,
    grouped,
    of_criterion,
    wilson_interval,
)
from reward.preferences import PreferencePair

Floats = NDArray[np.float64]
CELLS = 5_000_000  # of the matrix of draws held at once
EXACT_ROOTS = 12  # so few that every flip of signs can be tried


class Draws(NamedTuple):
    """How intervals are drawn: seeded, so that a report can be made again."""

    resamples: int = 2000
    seed: int = 0


def root_numbers(roots: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """The number 0 … R-1 of each pair's root, in order of appearance; and R."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(root, len(numbers)) for root in roots]
    return np.array(found, dtype=np.intp), len(numbers)


def drawn_weights(count: int, draws: Draws) -> Iterator[Floats]:
    """Chunks of how often each of R roots is drawn, (a part of B, R)."""
    numbers = np.random.default_rng(draws.seed)
    at_once = max(1, min(draws.resamples, CELLS // max(count, 1)))
    for start in range(0, draws.resamples, at_once):
        rows = min(at_once, draws.resamples - start)
        weights = np.empty((rows, count))
        for row in weights:
            row[:] = np.bincount(numbers.integers(count, size=count), minlength=count)
        yield weights


def sums_by_root(roots: NDArray[np.intp], count: int, values: Floats) -> Floats:
    """The values (N, G) of each root added up: (R, G)."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, roots, values)
    return sums


def bootstrap(
    roots: Sequence[str], values: Floats, statistic: Callable[[Floats], Floats], draws: Draws
) -> tuple[Floats, Floats]:
    """95 % percentile intervals of figures that follow from sums over the pairs.

    ``values`` is (N, S), what is summed; ``statistic`` takes sums (B, S) to figures (B, G). Draws
    in which a figure is undefined (nan) do not count. Returns low and high, each (G,).
    """
    numbers, count = root_numbers(roots)
    sums = sums_by_root(numbers, count, values)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.concatenate([statistic(w @ sums) for w in drawn_weights(count, draws)])
        undefined = np.isnan(drawn).all(axis=0)
        drawn[:, undefined] = 0.0
        low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    low[undefined] = high[undefined] = np.nan
    return low, high


def accuracies(
    groups: Sequence[Sequence[ScoredPair]], draws: Draws = Draws()
) -> list[dict[str, Any]]:
    """Accuracy, count, dialogue roots and 95 % interval of each group of pairs.

    The interval is the wider of Wilson's, which takes pairs for independent, and the bootstrap by
    root, which has no width where a small group is all right or all wrong.
    """
    members = [(item, g) for g, group in enumerate(groups) for item in group]
    if not members:
        return [{**accuracy([]), "roots": 0} for _ in groups]
    values = np.zeros((len(members), 2 * len(groups)))
    for row, (item, g) in enumerate(members):
        values[row, 2 * g : 2 * g + 2] = item.credit, 1.0
    roots = [item.pair.root for item, _ in members]
    low, high = bootstrap(roots, values, lambda sums: sums[:, ::2] / sums[:, 1::2], draws)
    return [_widened(group, *limits) for group, *limits in zip(groups, low, high, strict=True)]


def _widened(group: Sequence[ScoredPair], low: float, high: float) -> dict[str, Any]:
    figures = accuracy(group)
    if figures["count"]:
        figures["low"] = min(figures["low"], float(low))
        figures["high"] = max(figures["high"], float(high))
    return {**figures, "roots": len({item.pair.root for item in group})}


def accuracies_by_group(
    scored: Sequence[ScoredPair], criterion: str | None, draws: Draws
) -> dict[str, Any]:
    """The accuracy of a criterion's pairs (of all for None), and by every group of them."""
    own = of_criterion(scored, criterion)
    by: dict[str, tuple[Sequence[ScoredPair], Callable[[PreferencePair], object]]] = {
        **{name: (own, group) for name, group in GROUPS.items()},
        "by_criterion": (scored, lambda pair: pair.criterion),
    }
    found: dict[str, Any] = accuracies([own], draws)[0]
    for name, (some, group) in by.items():
        groups = grouped(some, group)
        found[name] = dict(zip(groups, accuracies([*groups.values()], draws), strict=True))
    return found


def compare_pairwise(
    first: Sequence[ScoredPair], second: Sequence[ScoredPair], draws: Draws = Draws()
) -> dict[str, Any]:
    """Two models on the same pairs in the same order: difference, interval and p.

    ``difference`` is the first's accuracy less the second's; the interval is the paired bootstrap
    by root; p is two-sided, from flipping the sign of each root's summed difference (a permutation
    test: under the null hypothesis the names of the models could be exchanged within a dialogue).
    Raises ValueError for different pairs.
    """
    if [item.pair.id for item in first] != [item.pair.id for item in second]:
        raise ValueError("two models are compared on the same pairs only")
    count = len(first)
    agreement = {"both_right": 0, "only_first": 0, "only_second": 0, "neither": 0}
    names = {(True, True): "both_right", (True, False): "only_first", (False, True): "only_second"}
    for one, other in zip(first, second, strict=True):
        agreement[names.get((one.credit == 1, other.credit == 1), "neither")] += 1
    empty = {"difference": None, "low": None, "high": None, "p_value": None}
    if not count:
        return {**empty, **agreement, "count": 0, "roots": 0}
    differences = np.array([[a.credit - b.credit, 1.0] for a, b in zip(first, second, strict=True)])
    roots = [item.pair.root for item in first]
    low, high = bootstrap(roots, differences, lambda sums: sums[:, :1] / sums[:, 1:], draws)
    numbers, many = root_numbers(roots)
    return {
        "difference": float(differences[:, 0].mean()),
        "low": float(low[0]),
        "high": float(high[0]),
        "p_value": sign_flip_p(sums_by_root(numbers, many, differences[:, :1])[:, 0], draws),
        **agreement,
        "count": count,
        "roots": many,
    }


def sign_flip_p(sums: Floats, draws: Draws = Draws()) -> float:
    """Two-sided p of a total (R,) under random signs; exact where few roots differ from 0, and for
    whole numbers, of which hits before and after are made."""
    moved = sums[sums != 0]
    if not len(moved):
        return 1.0
    reached = abs(moved.sum()) - 1e-9
    if len(moved) <= EXACT_ROOTS:
        signs = 1 - 2 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= reached).mean())
    if np.array_equal(moved, np.rint(moved)):
        return _whole_flips_p(np.rint(moved).astype(np.int64))
    numbers = np.random.default_rng(draws.seed)
    at_once = max(1, CELLS // len(moved))
    beyond, flips = 0, 5 * draws.resamples
    for start in range(0, flips, at_once):
        rows = min(at_once, flips - start)
        signs = numbers.integers(2, size=(rows, len(moved)), dtype=np.int8) * 2 - 1
        beyond += int((np.abs(signs @ moved) >= reached).sum())
    return (1 + beyond) / (1 + flips)


def _whole_flips_p(sums: NDArray[np.int64]) -> float:
    """The same of whole numbers, without drawing: those of one size add up to a binomial number."""
    chances = np.ones(1)  # of the totals -T … T
    for size, count in zip(*np.unique(np.abs(sums), return_counts=True), strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = [_half_binomial(k, int(count)) for k in range(count + 1)]
        chances = np.convolve(chances, steps)
    totals = np.arange(len(chances)) - len(chances) // 2
    return min(1.0, float(chances[np.abs(totals) >= abs(sums.sum())].sum()))


def _half_binomial(hits: int, count: int) -> float:
    """The probability of so many heads in ``count`` tosses of a coin."""
    chosen = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(chosen - count * math.log(2))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) correction for testing several at once; None stays None."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[i] = highest
    return corrected


def share_interval(
    roots: Sequence[str], hits: Sequence[bool], draws: Draws
) -> tuple[float | None, float | None]:
    """95 % interval of a share, the wider of Wilson's and the bootstrap by root."""
    if not hits:
        return None, None
    values = np.column_stack([np.array(hits, dtype=float), np.ones(len(hits))])
    low, high = bootstrap(roots, values, lambda sums: sums[:, :1] / sums[:, 1:], draws)
    wilson = wilson_interval(sum(hits) / len(hits), len(hits))
    return min(wilson[0], float(low[0])), max(wilson[1], float(high[0]))
