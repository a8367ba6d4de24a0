"""Calibration: against worked numbers, both orders of a pair, and models that are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from reward.measures.accuracy import ScoredPair, ScoredResponse
from reward.measures.calibration import (
    Outcomes,
    calibration,
    fit_temperature,
    log_loss,
    preference_outcomes,
    reliability,
    safety_outcomes,
)
from reward.measures.folds import cross_fitted
from tests.reward.pairs import pair


def judged(differences, shares) -> list[ScoredPair]:
    return [
        ScoredPair(pair(i, share=float(share)), float(d), 0.0)
        for i, (d, share) in enumerate(zip(differences, shares, strict=True))
    ]


def simulated(count: int, temperature: float = 1.0) -> list[ScoredPair]:
    """A model whose differences are the true logits times ``temperature``."""
    numbers = np.random.default_rng(1)
    logits = numbers.normal(0, 1.5, count)
    better = numbers.random(count) < expit(logits)
    return judged(temperature * np.where(better, logits, -logits), np.ones(count))


def test_it_works():
    """Three pairs by hand: sigmoid(1) right, sigmoid(1) wrong, sigmoid(3) right with share 0.75."""
    found = reliability(preference_outcomes(judged([1, -1, 3], [1, 1, 0.75])))
    p, q = expit(1), expit(3)
    assert found["bins"] == [
        {"low": pytest.approx(0.7), "high": pytest.approx(0.75), "count": 2,
         "predicted": pytest.approx(p), "observed": 0.5},
        {"low": pytest.approx(0.95), "high": 1.0, "count": 1,
         "predicted": pytest.approx(q), "observed": 0.75},
    ]  # fmt: skip
    assert found["ece"] == pytest.approx((2 * (p - 0.5) + (q - 0.75)) / 3)
    brier = ((1 - p) ** 2 + p**2 + 0.75 * (1 - q) ** 2 + 0.25 * q**2) / 3
    assert found["brier"] == pytest.approx(brier)
    loss = -(np.log(p) + np.log(1 - p) + 0.75 * np.log(q) + 0.25 * np.log(1 - q)) / 3
    assert found["log_loss"] == pytest.approx(loss)


def test_each_pair_once_is_both_orders_symmetrically():
    """A second derivation: every pair twice, as (d, share) and (-d, 1 - share)."""
    scored = judged(np.random.default_rng(0).normal(0, 2, 500), np.tile([1, 0.8, 2 / 3, 0.6], 125))
    once = reliability(preference_outcomes(scored))
    d = np.array([s.difference for s in scored])
    y = np.array([s.pair.share for s in scored])
    both = Outcomes(np.concatenate([d, -d]), np.concatenate([y, 1 - y]), [], np.linspace(0, 1, 21))
    twice = reliability(both)
    for name in ("ece", "brier", "log_loss"):
        assert once[name] == pytest.approx(twice[name])
    assert sum(b["count"] for b in twice["bins"]) == 2 * sum(b["count"] for b in once["bins"])


def test_a_calibrated_model_has_no_more_error_than_chance():
    found = reliability(preference_outcomes(simulated(20_000)))
    assert found["ece"] < 0.01
    assert found["ece"] < 2 * found["ece_by_chance"]


def test_the_temperature_takes_overconfidence_back():
    found = calibration(preference_outcomes(simulated(4_000, temperature=3)), "pairs", "")
    assert found["temperature"] == pytest.approx(3, rel=0.1)
    assert found["before"]["ece"] > 0.1
    assert found["after"]["ece"] < 0.03
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    assert len(found["temperatures"]) == found["folds"] == 5


def test_the_temperature_is_fitted_on_other_dialogues():
    """Roots of one fold are overconfident by 10; their own temperature must not be 10."""
    scored = simulated(3_000)
    roots = [item.pair.root for item in scored]
    fitted, measured = next(iter(cross_fitted(roots)))
    assert {roots[i] for i in fitted}.isdisjoint({roots[i] for i in measured})
    spoilt = set(measured)
    outcomes = preference_outcomes(scored)
    logits = np.where([i in spoilt for i in range(len(scored))], 10.0, 1.0) * outcomes.logits
    found = calibration(outcomes._replace(logits=logits), "pairs", "")
    assert found["temperatures"][0] == pytest.approx(1, rel=0.15)
    assert found["temperatures"][1] > 1.3


def test_temperature_minimises_the_loss():
    scored = preference_outcomes(simulated(500, temperature=2))
    best = fit_temperature(scored.logits, scored.observed)
    losses = [log_loss(scored.logits / (best * f), scored.observed) for f in (0.9, 1, 1.1)]
    assert losses[1] == min(losses)


def test_a_model_that_is_always_right_has_the_coldest_temperature():
    found = calibration(preference_outcomes(judged([1] * 50, [1] * 50)), "pairs", "")
    assert found["temperature"] < 0.05


def test_equal_scores_are_a_probability_of_one_half():
    (bin_,) = reliability(preference_outcomes(judged([0, 0], [1, 1])))["bins"]
    assert (bin_["predicted"], bin_["observed"]) == (0.5, 0.5)


def test_safety_is_by_response():
    responses = [ScoredResponse(str(i), s, safe) for i, (s, safe) in
                 enumerate([(2.0, True), (-2.0, False), (-2.0, True)])]  # fmt: skip
    found = reliability(safety_outcomes(responses))
    assert [b["count"] for b in found["bins"]] == [2, 1]
    assert found["bins"][0]["observed"] == 0.5


def test_nothing_to_measure_on():
    assert calibration(preference_outcomes([]), "pairs", "") is None
