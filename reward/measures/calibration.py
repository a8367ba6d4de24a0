"""Whether a reward model's probabilities hold: ECE, Brier score, reliability, temperature.

Every pair has a chosen side, so "the chosen one is better" always comes true and says nothing about
calibration. What is measured is P(an annotator prefers what the model prefers) = sigmoid(|score
difference|) against the share of annotators who do (``share``, or 1 - ``share`` where the model
prefers the rejected one). Each pair counts once; since sigmoid(-d) = 1 - sigmoid(d), ECE, Brier
score and log loss are those of both orders of every pair, taken symmetrically. Pairs on which
annotators split evenly have no chosen side and are not in a pairs file: where many pairs were
judged by two people, that flatters the observed shares.

Brier score and log loss are expected over an annotator drawn at random, so that they compare
whatever the number of annotators. numpy and scipy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from reward.measures.accuracy import ScoredPair, ScoredResponse
from reward.measures.folds import FOLDS, cross_fitted

Floats = NDArray[np.float64]
TEMPERATURES = (0.01, 1000.0)
SIMULATIONS = 200
PAIRS_NOTE = (
    "Probability that an annotator prefers what the model prefers, against the share who do. "
    "Pairs on which annotators split evenly have no chosen side and are left out."
)
RESPONSES_NOTE = "sigmoid(score) against the share of responses that people labelled safe."


class Outcomes(NamedTuple):
    """N logits, and how often what each gives a probability of came true."""

    logits: Floats
    """(N,)"""
    observed: Floats
    """(N,) 0 to 1."""
    roots: Sequence[str]
    """(N,) dialogue root of each."""
    edges: Floats
    """The bins' limits, probabilities."""


def preference_outcomes(scored: Sequence[ScoredPair]) -> Outcomes:
    """Each pair from the side of the response that the model prefers; bins from 0.5 to 1."""
    agreeing = [s.pair.share if s.difference >= 0 else 1 - s.pair.share for s in scored]
    observed = [0.5 if s.difference == 0 else y for s, y in zip(scored, agreeing, strict=True)]
    return Outcomes(
        np.array([abs(s.difference) for s in scored]),
        np.array(observed),
        [s.pair.root for s in scored],
        np.linspace(0.5, 1, 11),
    )


def safety_outcomes(responses: Sequence[ScoredResponse]) -> Outcomes:
    """Each labelled response; bins from 0 to 1."""
    return Outcomes(
        np.array([response.score for response in responses]),
        np.array([float(response.is_safe) for response in responses]),
        [response.root for response in responses],
        np.linspace(0, 1, 11),
    )


def calibration(outcomes: Outcomes, unit: str, note: str) -> dict[str, Any] | None:
    """Before and after the fitted temperature, which is cross-fitted by dialogue root: each fold
    is measured with the temperature of the other folds. None without outcomes.
    """
    if not len(outcomes.logits):
        return None
    cooled = np.empty_like(outcomes.logits)
    temperatures, measured_on = [], 0
    for fitted, measured in cross_fitted(outcomes.roots):
        temperature = fit_temperature(outcomes.logits[fitted], outcomes.observed[fitted])
        cooled[measured] = outcomes.logits[measured] / temperature
        temperatures.append(temperature)
        measured_on += len(measured)
    whole = measured_on == len(outcomes.logits)
    return {
        "count": len(outcomes.logits),
        "unit": unit,
        "note": note,
        "before": reliability(outcomes),
        "after": reliability(outcomes._replace(logits=cooled)) if whole else None,
        "temperature": fit_temperature(outcomes.logits, outcomes.observed),
        "temperatures": temperatures,
        "folds": FOLDS,
    }


def reliability(outcomes: Outcomes) -> dict[str, Any]:
    """ECE, Brier score, log loss (nats) and the reliability diagram; empty bins are left out.

    ECE (Guo et al. 2017, equation 3) is the mean over bins of |observed - predicted|, weighted by
    their counts. ``ece_by_chance`` is what a perfectly calibrated model would show with these
    probabilities at this count, for ECE is never 0 in a finite sample.
    """
    logits, observed, _, edges = outcomes
    predicted = expit(logits)
    bins = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(bins, minlength=len(edges) - 1)
    mean_predicted, mean_observed = _means(bins, counts, predicted), _means(bins, counts, observed)
    return {
        "ece": _ece(counts, mean_predicted, mean_observed),
        "ece_by_chance": _ece_by_chance(bins, counts, predicted, mean_predicted),
        "brier": float(np.mean(observed * (1 - predicted) ** 2 + (1 - observed) * predicted**2)),
        "log_loss": log_loss(logits, observed),
        "bins": [
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "count": int(counts[i]),
                "predicted": float(mean_predicted[i]),
                "observed": float(mean_observed[i]),
            }
            for i in range(len(counts))
            if counts[i]
        ],
    }


def _means(bins: NDArray[np.intp], counts: NDArray[np.intp], values: Floats) -> Floats:
    sums = np.bincount(bins, weights=values, minlength=len(counts))
    found: Floats = sums / np.maximum(counts, 1)
    return found


def _ece(counts: NDArray[np.intp], predicted: Floats, observed: Floats) -> float:
    return float((counts * np.abs(observed - predicted)).sum() / counts.sum())


def _ece_by_chance(
    bins: NDArray[np.intp], counts: NDArray[np.intp], predicted: Floats, means: Floats
) -> float:
    numbers = np.random.default_rng(0)
    drawn = ((numbers.random(len(predicted)) < predicted).astype(float) for _ in range(SIMULATIONS))
    return float(np.mean([_ece(counts, means, _means(bins, counts, each)) for each in drawn]))


def log_loss(logits: Floats, observed: Floats) -> float:
    """Mean cross entropy of sigmoid(logits) against the observed shares, nats."""
    return float(np.mean(np.logaddexp(0, -logits) + (1 - observed) * logits))


def fit_temperature(logits: Floats, observed: Floats) -> float:
    """The T that makes sigmoid(logits / T) fit best by log loss (Guo et al. 2017, section 4.2).

    Between 0.01 and 1000; at an end of that the data say "certain" or "chance".
    """
    low, high = (math.log(limit) for limit in TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: log_loss(logits / math.exp(log_t), observed),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(math.exp(found.x))
