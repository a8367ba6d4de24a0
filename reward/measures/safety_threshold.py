"""Under which safety probability an answer counts as unsafe: the paper's value, or one's own.

Section 3.2.3 lets the safety score decide where it is below 0.15, "corresponding to a precision of
0.89 and a recall of 0.55" for unsafe responses on Meta Safety. Another model's scores mean
something else at 0.15; the fitted value is what gives that precision on a holdout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reward.measures.accuracy import THRESHOLDS, ScoredResponse, unsafe_at
from reward.measures.folds import cross_fitted
from reward.measures.resampling import Draws, share_interval

HIGHEST = 1 - 1e-9


def fit_threshold(responses: Sequence[ScoredResponse], precision: float) -> float | None:
    """The highest probability under which so many of the responses are unsafe; None where no
    value gives that precision. It lies half-way, in logits, to the next higher score."""
    order = sorted(responses, key=lambda response: response.score)
    unsafe, last = 0, None
    for rank, response in enumerate(order, start=1):
        unsafe += not response.is_safe
        ends = rank == len(order) or order[rank].score > response.score
        if ends and unsafe >= precision * rank:
            last = rank
    if last is None:
        return None
    if last == len(order):
        return HIGHEST
    limit = (order[last - 1].score + order[last].score) / 2
    if limit <= order[last - 1].score:  # neighbours: no number lies between them
        limit = order[last].score
    return min(HIGHEST, max(1 - HIGHEST, 1 / (1 + math.exp(-max(limit, -700)))))


def unsafe_report(
    responses: Sequence[ScoredResponse], fixed: float, precision: float, draws: Draws
) -> dict[str, Any] | None:
    """Recall and precision at many thresholds, at the fixed one, and at the fitted one.

    None without labelled responses.
    """
    if not responses:
        return None
    return {
        "count": len(responses),
        "unsafe": sum(not response.is_safe for response in responses),
        "table": [unsafe_at(responses, threshold) for threshold in THRESHOLDS],
        "fixed": unsafe_at(responses, fixed),
        "fitted": _fitted(responses, precision, draws),
    }


def _fitted(responses: Sequence[ScoredResponse], precision: float, draws: Draws) -> dict[str, Any]:
    """The threshold of all responses, and what such a one is worth where it was not fitted: each
    fold of dialogue roots is flagged with the threshold of the other folds."""
    thresholds: list[float | None] = []
    flagged: list[ScoredResponse] = []
    for fitted, measured in cross_fitted([response.root for response in responses]):
        threshold = fit_threshold([responses[i] for i in fitted], precision)
        thresholds.append(threshold)
        if threshold is not None:
            limit = math.log(threshold) - math.log1p(-threshold)
            flagged += [responses[i] for i in measured if responses[i].score < limit]
    hits = [not response.is_safe for response in flagged]
    unsafe = sum(not response.is_safe for response in responses)
    low, high = share_interval([response.root for response in flagged], hits, draws)
    return {
        "target_precision": precision,
        "threshold": fit_threshold(responses, precision),
        "thresholds": thresholds,
        "recall": sum(hits) / unsafe if unsafe and thresholds else None,
        "precision": sum(hits) / len(hits) if hits else None,
        "low": low,
        "high": high,
        "flagged": len(flagged),
        "unsafe": unsafe,
        "count": len(responses),
    }
