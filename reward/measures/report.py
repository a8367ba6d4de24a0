"""Every figure of one reward model on scored pairs. Without torch: the web side may call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reward.measures.accuracy import (
    PAPER_THRESHOLDS,
    ScoredPair,
    labelled_responses,
    macro,
    of_criterion,
    unsafe_recall,
)
from reward.measures.calibration import (
    PAIRS_NOTE,
    RESPONSES_NOTE,
    calibration,
    preference_outcomes,
    safety_outcomes,
)
from reward.measures.ceiling import ceiling
from reward.measures.drift import batch_order, drift
from reward.measures.length_bias import length_bias
from reward.measures.resampling import Draws, accuracies_by_group
from reward.measures.safety_threshold import unsafe_report
from reward.preferences import PreferencePair

PAPER_PRECISION = 0.89
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
HISTOGRAM_BINS = 40


class Wanted(NamedTuple):
    """What a report is made for."""

    criterion: str | None = None
    """Of whose pairs; None for all."""
    batches: Sequence[str] = ()
    """Oldest first; empty for the order of appearance."""
    judged: Sequence[PreferencePair] | None = None
    """Pairs and ties that annotator agreement is measured on; None for the scored pairs."""
    threshold: float = PAPER_THRESHOLDS[1]
    unsafe_precision: float = PAPER_PRECISION
    draws: Draws = Draws()
    scores_are_logits: bool = True
    """False for a judge's verdicts: 0 and 1 are no logits, so nothing that reads them as such."""


def full_report(scored: Sequence[ScoredPair], wanted: Wanted = Wanted()) -> dict[str, Any]:
    """Accuracy, in all and by group, with intervals by dialogue root; unsafe recall and precision,
    calibration, the annotators' ceiling, length bias, score distribution, drift.

    All but ``by_criterion`` are of the wanted criterion's pairs.
    """
    own = of_criterion(scored, wanted.criterion)
    responses = labelled_responses(own)
    judged = wanted.judged
    if judged is not None and wanted.criterion is not None:
        judged = [pair for pair in judged if pair.criterion == wanted.criterion]
    figures = accuracies_by_group(scored, wanted.criterion, wanted.draws)
    logits = wanted.scores_are_logits
    return {
        **figures,
        "macro_by_strength": macro(figures["by_strength"]),
        "unsafe_recall": unsafe_recall(own) if logits else None,
        "unsafe": unsafe_report(responses, wanted.threshold, wanted.unsafe_precision, wanted.draws)
        if logits
        else None,
        "calibration": calibration(preference_outcomes(own), "pairs", PAIRS_NOTE)
        if logits
        else None,
        "safety_calibration": calibration(safety_outcomes(responses), "responses", RESPONSES_NOTE)
        if logits
        else None,
        "ceiling": ceiling(own, judged),
        "length": length_bias(own, wanted.draws),
        "scores": score_distribution(own) if logits else None,
        "drift": drift(own, batch_order(own, wanted.batches), wanted.draws),
    }


def score_distribution(scored: Sequence[ScoredPair]) -> dict[str, Any] | None:
    """Mean, spread, quantiles and histogram of the raw scores; None without pairs."""
    if not scored:
        return None
    chosen, rejected = (
        np.array(side) for side in zip(*((s[1], s[2]) for s in scored), strict=True)
    )
    every = np.concatenate([chosen, rejected])
    edges = np.histogram_bin_edges(every, bins=HISTOGRAM_BINS)
    counts = [np.histogram(side, bins=edges)[0].tolist() for side in (chosen, rejected)]
    quantiles = np.quantile(every, QUANTILES).tolist()
    return {
        "count": len(every),
        "mean": float(every.mean()),
        "sd": float(every.std()),
        "quantiles": {str(q): value for q, value in zip(QUANTILES, quantiles, strict=True)},
        "histogram": {"edges": edges.tolist(), "chosen": counts[0], "rejected": counts[1]},
    }
