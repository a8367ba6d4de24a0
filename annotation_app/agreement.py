"""How far several people's ratings of the same subjects agree, beyond chance.

Ratings are an array of subjects × raters; NaN is a rating that is missing. Every function takes the
full scale: with only the categories that happened to occur, a weighted coefficient is another
number. What is undefined (nothing rated twice, or chance agreement of 1) is NaN, never 0 or 1.

Formulas: K. L. Gwet, "Computing inter-rater reliability and its variance in the presence of high
agreement" (2008) and "Handbook of Inter-Rater Reliability" (2014); K. Krippendorff, "Content
Analysis" (2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Weights = Literal["identity", "linear", "quadratic", "ordinal"]
CONFIDENCE = 0.95
JACKKNIFE_GROUPS = 200


class Agreement(NamedTuple):
    """A coefficient with its standard error and 95 % interval; NaN where undefined."""

    coefficient: float
    standard_error: float
    low: float
    high: float


UNDEFINED = Agreement(np.nan, np.nan, np.nan, np.nan)


def weight_matrix(count: int, weights: Weights = "identity") -> Floats:
    """How much agreement there is in a pair of categories, (count, count), 1 on the diagonal."""
    place = np.arange(count)
    distance = np.abs(place[:, None] - place[None, :]).astype(float)
    if weights == "identity":
        return np.eye(count)
    if count < 2:
        return np.ones((count, count))
    if weights == "linear":
        lost = distance / (count - 1)
    elif weights == "quadratic":
        lost = (distance / (count - 1)) ** 2
    elif weights == "ordinal":  # C(d + 1, 2) / C(count, 2)
        lost = (distance + 1) * distance / (count * (count - 1))
    else:
        known = "identity, linear, quadratic, ordinal"
        raise ValueError(f"weights is {weights!r}, allowed are {known}")
    return np.asarray(1 - lost)


def gwet_ac(
    ratings: ArrayLike, categories: Sequence[float], weights: Weights = "identity"
) -> Agreement:
    """Gwet's AC1 (identity weights) or AC2 (any other) of subjects × raters.

    Raises ValueError for a rating outside the categories and for unknown weights.
    """
    counts = _counts(ratings, categories)
    weighted = weight_matrix(len(categories), weights)
    raters = counts.sum(axis=1)
    rated_twice = raters >= 2
    subjects, q = len(counts), len(categories)
    if not rated_twice.any() or q < 2:
        return UNDEFINED
    by_subject = _agreement_by_subject(counts, weighted)
    observed = by_subject[rated_twice].mean()
    shares = counts / raters[:, None]
    prevalence = shares.mean(axis=0)
    spread = weighted.sum() / (q * (q - 1))
    expected = spread * (prevalence * (1 - prevalence)).sum()
    if np.isclose(expected, 1):
        return UNDEFINED
    coefficient = (observed - expected) / (1 - expected)
    scale = subjects / rated_twice.sum()
    of_subject = scale * (by_subject - expected * rated_twice) / (1 - expected)
    expected_of_subject = spread * (shares * (1 - prevalence)).sum(axis=1)
    shifted = (1 - coefficient) * (expected_of_subject - expected) / (1 - expected)
    return _with_interval(coefficient, of_subject - 2 * shifted)


def percent_agreement(
    ratings: ArrayLike, categories: Sequence[float], weights: Weights = "identity"
) -> Agreement:
    """The share of pairs of ratings that agree, weighted: the mean over subjects rated twice."""
    counts = _counts(ratings, categories)
    rated_twice = counts.sum(axis=1) >= 2
    if not rated_twice.any():
        return UNDEFINED
    by_subject = _agreement_by_subject(counts, weight_matrix(len(categories), weights))
    return _with_interval(by_subject[rated_twice].mean(), by_subject[rated_twice])


def krippendorff_alpha(
    ratings: ArrayLike,
    categories: Sequence[float],
    level: Literal["nominal", "ordinal", "interval"] = "nominal",
) -> Agreement:
    """Krippendorff's alpha; its interval by leaving subjects out in turn (jackknife).

    One at a time, or in as many groups as ``JACKKNIFE_GROUPS`` where there are more.

    Raises ValueError for a rating outside the categories and for an unknown level.
    """
    counts = _counts(ratings, categories)
    counts = counts[counts.sum(axis=1) >= 2]
    coefficient = _alpha(counts, categories, level)
    subjects = len(counts)
    if np.isnan(coefficient) or subjects < 2:
        return Agreement(coefficient, np.nan, np.nan, np.nan)
    groups = np.array_split(np.arange(subjects), min(subjects, JACKKNIFE_GROUPS))
    without = np.array(
        [_alpha(np.delete(counts, group, axis=0), categories, level) for group in groups]
    )
    if np.isnan(without).any():
        return Agreement(coefficient, np.nan, np.nan, np.nan)
    return _with_interval(coefficient, len(groups) * coefficient - (len(groups) - 1) * without)


def _alpha(counts: Floats, categories: Sequence[float], level: str) -> float:
    if len(counts) == 0:
        return np.nan
    raters = counts.sum(axis=1)
    pairs = counts.T @ (counts / (raters - 1)[:, None]) - np.diag(
        (counts / (raters - 1)[:, None]).sum(axis=0)
    )
    totals = pairs.sum(axis=0)
    distance = _distance(totals, categories, level)
    by_chance = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)
    expected = (by_chance * distance).sum()
    return float(1 - (pairs * distance).sum() / expected) if expected > 0 else np.nan


def _distance(totals: Floats, categories: Sequence[float], level: str) -> Floats:
    """Krippendorff's difference function, squared, for each pair of categories."""
    if level == "nominal":
        return 1 - np.eye(len(categories))
    if level == "interval":
        values = np.asarray(categories, dtype=float)
        return np.asarray((values[:, None] - values[None, :]) ** 2)
    if level == "ordinal":  # the ratings between two categories, the ends counted half
        middle = np.cumsum(totals) - totals / 2
        return np.asarray((middle[:, None] - middle[None, :]) ** 2)
    raise ValueError(f"level is {level!r}, allowed are nominal, ordinal, interval")


def _counts(ratings: ArrayLike, categories: Sequence[float]) -> Floats:
    """How many raters put a subject into a category, (subjects, categories); unrated ones go."""
    table = np.asarray(ratings, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"ratings have {table.ndim} dimensions, expected subjects × raters")
    unknown = set(table[~np.isnan(table)]) - {float(category) for category in categories}
    if unknown:
        raise ValueError(f"rating {min(unknown):g} is none of the categories {list(categories)}")
    counts = np.stack([(table == category).sum(axis=1) for category in categories], axis=1)
    return np.asarray(counts[counts.sum(axis=1) > 0], dtype=float)


def _agreement_by_subject(counts: Floats, weights: Floats) -> Floats:
    """The weighted share of agreeing pairs of raters; 0 for a subject rated once."""
    raters = counts.sum(axis=1)
    pairs = np.where(raters >= 2, raters * (raters - 1), 1)
    agreeing = (counts * (counts @ weights.T - 1)).sum(axis=1)
    return np.asarray(np.where(raters >= 2, agreeing / pairs, 0.0))


def _with_interval(coefficient: float, of_subject: Floats) -> Agreement:
    """The t interval from the contributions of the subjects, cut at 1."""
    subjects = len(of_subject)
    if subjects < 2:
        return Agreement(float(coefficient), np.nan, np.nan, np.nan)
    variance = ((of_subject - coefficient) ** 2).sum() / (subjects * (subjects - 1))
    error = float(np.sqrt(variance))
    reach = float(stdtrit(subjects - 1, (1 + CONFIDENCE) / 2)) * error
    low, high = max(-1.0, coefficient - reach), min(1.0, coefficient + reach)
    return Agreement(float(coefficient), error, float(low), float(high))
