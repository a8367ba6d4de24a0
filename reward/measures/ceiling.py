"""How accurate a reward model can be where annotators themselves disagree.

Let q be the share of annotators who prefer the more popular answer of a pair, 1/2 to 1. A model
that knows every pair's more popular answer agrees with one annotator with probability c = E[q]; no
model can do better. Two annotators agree with probability A = E[q² + (1-q)²]. Between the two:

    A ≤ c ≤ (1 + √(2A - 1)) / 2

since q² + (1-q)² ≤ q on [1/2, 1], with equality where all pairs are either certain or coin tosses,
and is convex (Jensen), with equality where all pairs are equally hard. Own derivation. A is
estimated without bias from pairs with n ≥ 2 verdicts for a side, as the mean share of agreeing
couples of verdicts (Fleiss 1971, equation 2); verdicts "tie" take no side and are left out.

A pairs file leaves out pairs that annotators split evenly. Only an odd number of verdicts cannot
split so; of a holdout alone those are used, for A and for the model's accuracy against one
annotator alike. With files that hold the ties too, A is of all pairs judged twice or more, and the
model's accuracy of all its odd ones from the same sources, those judged once included: which pairs
of a batch are judged twice is drawn at random.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from reward.measures.accuracy import ScoredPair
from reward.preferences import PreferencePair


def ceiling(
    scored: Sequence[ScoredPair], judged: Sequence[PreferencePair] | None = None
) -> dict[str, Any]:
    """The bounds, the model's accuracy against one annotator, and how the two compare.

    ``judged``: pairs and ties that agreement is measured on; None means the scored pairs.
    """
    own = judged is None
    several = [
        pair
        for pair in (judged if judged is not None else [item.pair for item in scored])
        if sum(_sides(pair)) >= 2 and (not own or sum(_sides(pair)) % 2)
    ]
    couples = [_agreement(_sides(pair)) for pair in several]
    agreement = sum(couples) / len(couples) if couples else None
    low, high = bounds(agreement) if agreement is not None else (None, None)
    sources = {pair.source for pair in several}
    least = 2 if own else 1
    credits = _against_one_annotator([s for s in scored if s.pair.source in sources], least)
    model = sum(credits) / len(credits) if credits else None
    return {
        "agreement": agreement,
        "agreement_count": len(couples),
        "agreement_pairs_of": "holdout" if own else "agreement files",
        "low": low,
        "high": high,
        "model": model,
        "model_count": len(credits),
        "of_low": model / low if model is not None and low else None,
        "of_high": model / high if model is not None and high else None,
        "sentence": _sentence(agreement, len(couples), low, high, model, len(credits), own),
    }


def bounds(agreement: float) -> tuple[float, float]:
    """Between which accuracies the ceiling lies; below chance agreement there is none but 1/2."""
    return max(agreement, 0.5), (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def _sides(pair: PreferencePair) -> tuple[int, int]:
    counts = Counter(verdict.choice for verdict in pair.verdicts)
    return counts["a"], counts["b"]


def _agreement(sides: tuple[int, int]) -> float:
    """The share of couples of verdicts that agree."""
    total = sum(sides)
    return sum(n * (n - 1) for n in sides) / (total * (total - 1))


def _against_one_annotator(scored: Iterable[ScoredPair], at_least: int) -> list[float]:
    """For each pair with an odd number of verdicts, the share of them that the model agrees with.

    The chosen side is taken for that of the majority, as it is where verdicts weigh the same.
    """
    found = []
    for item in scored:
        most, least = sorted(_sides(item.pair), reverse=True)
        if (most + least) % 2 and most + least >= at_least:
            right, total = item.credit, most + least
            found.append((right * most + (1 - right) * least) / total)
    return found


def _sentence(
    agreement: float | None,
    count: int,
    low: float | None,
    high: float | None,
    model: float | None,
    model_count: int,
    own: bool,
) -> str:
    if agreement is None or low is None or high is None:
        return (
            "No ceiling: none of these pairs was judged by an odd number of annotators above one."
            if own
            else "No ceiling: no pair of the agreement files was judged by two annotators."
        )
    said = (
        f"Two annotators agree on {agreement:.1%} ({count} pairs), so no model can agree with one "
        f"annotator on more than {low:.1%} to {high:.1%}"
    )
    if model is None:
        return said + "."
    return f"{said}; this one does on {model:.1%} ({model_count} pairs)."
