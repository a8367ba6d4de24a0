"""Whether an old reward model still fits new batches: accuracy and scores, batch by batch.

Two alarms. **Accuracy**: that on the newest batch lies below that on all earlier ones; the p-value
is one-sided, of exchanging dialogue roots between the two at random, and it must be below
0.05 / (k (k + 1)) at the k-th look. Those limits add up to 0.05, so that a model that never drifts
raises one in its whole life with a probability of 0.05 at most (union bound; a flat 0.05 would cry
wolf every twenty batches). **Scores**: the population stability index of the batch's scores
against the earlier ones' deciles is above 0.25, the customary "has shifted" (Siddiqi 2006), and
above what chance gives at these counts of roots (Yurdakul 2018: (1/n + 1/m) · χ²). numpy, scipy.

The index was taken rather than Kolmogorov and Smirnov's test because it measures how much has
moved; with many comparisons the test finds shifts that matter to nobody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from reward.measures.accuracy import ScoredPair
from reward.measures.resampling import Draws, Floats, accuracies, root_numbers, sums_by_root

ALPHA = 0.05
SHIFTED = 0.25
PARTS = 10
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def batch_order(scored: Sequence[ScoredPair], named: Sequence[str] = ()) -> list[str]:
    """The batches, oldest first: as named, else in order of appearance.

    Raises ValueError for pairs of a batch that is not among the named ones.
    """
    found = list(dict.fromkeys(item.pair.batch for item in scored if item.pair.batch))
    if not named:
        return found
    missing = [batch for batch in found if batch not in named]
    if missing:
        raise ValueError(f"batch {missing[0]!r} is not named; allowed is the order of all batches")
    return [batch for batch in named if batch in found]


def drift(
    scored: Sequence[ScoredPair], batches: Sequence[str], draws: Draws = Draws()
) -> dict[str, Any] | None:
    """Each batch against all that came before it; None with fewer than two batches."""
    groups = [[item for item in scored if item.pair.batch == name] for name in batches]
    named = [(name, group) for name, group in zip(batches, groups, strict=True) if group]
    if len(named) < 2:
        return None
    figures = accuracies([group for _, group in named], draws)
    rows = []
    earlier: list[ScoredPair] = []
    for look, ((name, group), accuracy) in enumerate(zip(named, figures, strict=True)):
        rows.append({"batch": name, **accuracy, **_spread(group)})
        rows[-1] |= _against(earlier, group, look)
        rows[-1]["sentence"] = _sentence(rows[-1])
        earlier += group
    return {"batches": rows, "alarm": rows[-1]["alarm"], "sentence": rows[-1]["sentence"]}


def _scores(group: Sequence[ScoredPair]) -> Floats:
    return np.array([score for item in group for score in (item.chosen, item.rejected)])


def _spread(group: Sequence[ScoredPair]) -> dict[str, Any]:
    scores = _scores(group)
    quantiles = np.quantile(scores, QUANTILES).tolist()
    return {
        "mean": float(scores.mean()),
        "sd": float(scores.std()),
        "quantiles": {str(q): value for q, value in zip(QUANTILES, quantiles, strict=True)},
    }


def _against(
    earlier: Sequence[ScoredPair], group: Sequence[ScoredPair], look: int
) -> dict[str, Any]:
    if not earlier:
        empty = ("earlier_accuracy", "p_value", "limit", "psi", "psi_limit")
        return {**dict.fromkeys(empty), "less_accurate": False, "shifted": False, "alarm": False}
    p_value, limit = lower_p(earlier, group), ALPHA / (look * (look + 1))
    psi, psi_limit = stability_index(earlier, group)
    found = {"less_accurate": p_value < limit, "shifted": psi > psi_limit}
    return {
        "earlier_accuracy": sum(item.credit for item in earlier) / len(earlier),
        "p_value": p_value,
        "limit": limit,
        "psi": psi,
        "psi_limit": psi_limit,
        **found,
        "alarm": any(found.values()),
    }


def lower_p(earlier: Sequence[ScoredPair], group: Sequence[ScoredPair]) -> float:
    """One-sided p of the group's accuracy being that low, dialogue roots exchanged at random.

    The normal limit of that permutation (Hoeffding 1951): a root weighs by its credit less what its
    pairs would have at the accuracy of all; their sum over the group's roots is the statistic.
    """
    # A root with pairs on both sides is two units: it cannot be moved as one.
    names = [f"{side}/{s.pair.root}" for side, some in enumerate((earlier, group)) for s in some]
    numbers, count = root_numbers(names)
    credits = np.array([[item.credit] for item in (*earlier, *group)])
    surplus = sums_by_root(numbers, count, credits - credits.mean())[:, 0]
    before = int(numbers[: len(earlier)].max()) + 1
    seen, after = surplus[before:].sum(), count - before
    spread = math.sqrt(before * after / count * surplus.var(ddof=1)) if count > 1 else 0.0
    return float(norm.cdf(seen / spread)) if spread else 1.0


def stability_index(
    earlier: Sequence[ScoredPair], group: Sequence[ScoredPair]
) -> tuple[float, float]:
    """The index over the earlier scores' deciles, and the limit that it must not exceed."""
    before, after = _scores(earlier), _scores(group)
    edges = np.unique(np.quantile(before, np.linspace(0, 1, PARTS + 1)[1:-1]))
    parts = len(edges) + 1
    expected, found = (
        (np.bincount(np.searchsorted(edges, some, side="right"), minlength=parts) + 0.5)
        / (len(some) + 0.5 * parts)
        for some in (before, after)
    )
    index = float(((found - expected) * np.log(found / expected)).sum())
    roots = [len({item.pair.root for item in some}) for some in (earlier, group)]
    by_chance = float(chi2.ppf(1 - ALPHA, max(parts - 1, 1))) * sum(1 / n for n in roots)
    return index, max(SHIFTED, by_chance)


def _sentence(row: dict[str, Any]) -> str:
    name, accuracy, count = row["batch"], row["accuracy"], row["count"]
    said = f"{name}: accuracy {accuracy:.1%} on {count} pairs"
    if row["earlier_accuracy"] is None:
        return f"{said}; nothing came before it."
    said += f", {row['earlier_accuracy']:.1%} on the batches before"
    if row["less_accurate"]:
        said += f" – significantly lower (p {row['p_value']:.4f}, limit {row['limit']:.4f})"
    if row["shifted"]:
        said += f"; its scores have moved (index {row['psi']:.2f}, limit {row['psi_limit']:.2f})"
    return said + ("." if row["alarm"] else "; no alarm.")
