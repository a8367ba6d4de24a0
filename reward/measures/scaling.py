"""Accuracy against the number of comparisons (Llama 2, figure 6). numpy only.

The points come from trainings made for it (``reward.scaling``) or from reward models that are there
already; the line is the same: accuracy = a + b · ln(pairs). A power law towards a limit has a third
parameter, the limit, which a dozen points in which nothing levels off do not tell (the paper's did
not, in 14 batches); inside the range measured the two cannot be told apart, and one batch further
is all that the line is used for. Intervals draw the holdout's dialogue roots, the same for all
points of a draw; they know nothing of what another seed or other data would have given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from reward.measures.accuracy import ScoredPair
from reward.measures.resampling import Draws, Floats, accuracies, bootstrap


class Point(NamedTuple):
    """How many pairs were trained on, and the holdout's scores for each seed."""

    through: str
    pairs: int
    scored: list[list[ScoredPair]]


def measured(points: Sequence[Point], next_pairs: int, draws: Draws) -> dict[str, Any]:
    """The points of one model with accuracies and intervals, the line, and what comes next."""
    every = [[item for scored in point.scored for item in scored] for point in points]
    return {
        "points": [
            {
                "through": point.through,
                "pairs": point.pairs,
                **accuracy,
                "count": len(point.scored[0]),
                "by_seed": [_share(scored) for scored in point.scored],
            }
            for point, accuracy in zip(points, accuracies(every, draws), strict=True)
        ],
        **fitted(points, next_pairs, draws),
    }


def _share(scored: Sequence[ScoredPair]) -> float | None:
    return sum(item.credit for item in scored) / len(scored) if scored else None


def fitted(points: Sequence[Point], next_pairs: int, draws: Draws) -> dict[str, Any]:
    """The line through the points, and what the next batch should bring, with 95 % intervals.

    Both None with fewer than three points of different size, or without a holdout.
    """
    sizes = np.array([point.pairs for point in points], dtype=float)
    distinct = sorted({point.pairs for point in points})
    items = [(item, p) for p, point in enumerate(points) for some in point.scored for item in some]
    if len(distinct) < 3 or not items:
        return {"fit": None, "next": None}
    step = next_pairs or distinct[-1] - distinct[-2]
    values = np.zeros((len(items), 2 * len(points)))
    for row, (item, p) in enumerate(items):
        values[row, 2 * p : 2 * p + 2] = item.credit, 1.0
    figures = partial(_line, sizes=sizes, after=float(distinct[-1] + step))
    a, per_doubling, gain, r_squared = figures(values.sum(axis=0, keepdims=True))[0]
    roots = [item.pair.root for item, _ in items]
    low, high = bootstrap(roots, values, figures, draws)
    return {
        "fit": {
            "form": "accuracy = a + b ln(pairs)",
            "a": float(a),
            "b": float(per_doubling / math.log(2)),
            "per_doubling": float(per_doubling),
            "low": float(low[1]),
            "high": float(high[1]),
            "r_squared": None if math.isnan(r_squared) else float(r_squared),
            "count": len(points),
        },
        "next": {
            "pairs": step,
            "gain": float(gain),
            "low": float(low[2]),
            "high": float(high[2]),
        },
    }


def _line(sums: Floats, sizes: Floats, after: float) -> Floats:
    """(B, 4): a, gain for twice the pairs, gain from the largest point to ``after``, R², by least
    squares; every point has the same holdout, so all weigh the same. ``sums`` is (B, 2 · points):
    credit and count of each."""
    accuracy = sums[:, ::2] / sums[:, 1::2]  # (B, P)
    x = np.log(sizes)
    centred = x - x.mean()
    b = (accuracy - accuracy.mean(axis=1, keepdims=True)) @ centred / (centred @ centred)
    a = accuracy.mean(axis=1) - b * x.mean()
    left = accuracy - a[:, None] - b[:, None] * x
    with np.errstate(invalid="ignore", divide="ignore"):  # a flat line explains nothing: nan
        r_squared = 1 - left.var(axis=1) / accuracy.var(axis=1)
    found: Floats = np.column_stack(
        [a, b * math.log(2), b * math.log(after / sizes.max()), r_squared]
    )
    return found
