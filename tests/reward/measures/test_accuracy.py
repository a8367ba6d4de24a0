"""Accuracy by strength (Llama 2, table 8) at worked values, and the figures around it."""

from __future__ import annotations

import pytest

from reward.measures.accuracy import ScoredPair, accuracy, unsafe_recall, wilson_interval
from reward.measures.report import Wanted, full_report
from reward.preferences import PreferenceStrength, SafetyLabel
from tests.reward.pairs import pair

SCORES = {
    "significantly_better": [(2, 0.1), (1, 1.2), (0.9, -0.4), (0.3, -0.3)],
    "better": [(0.5, 0.1), (0.2, 0.6), (1.1, 0.3)],
    "slightly_better": [(0.2, 0.1), (0.2, 0.4)],
    "negligibly_better": [(0.5, 0.5), (0.1, 0.3)],
}


def scored() -> list[ScoredPair]:
    return [
        ScoredPair(pair(0, strength=PreferenceStrength(name)), *scores)
        for name, rows in SCORES.items()
        for scores in rows
    ]


def test_accuracy_by_strength():
    figures = full_report(scored(), Wanted("helpfulness"))
    found = {name: group["accuracy"] for name, group in figures["by_strength"].items()}
    assert found == pytest.approx(
        {
            "significantly_better": 0.75,
            "better": 0.666667,
            "slightly_better": 0.5,
            "negligibly_better": 0.25,
        },
        abs=1e-6,
    )
    assert figures["accuracy"] == pytest.approx(0.590909, abs=1e-6)
    assert figures["macro_by_strength"] == pytest.approx(0.541667, abs=1e-6)
    assert figures["count"] == 11


def test_no_pairs_is_undefined_not_zero():
    assert accuracy([])["accuracy"] is None


def test_wilson_interval():
    """Against the textbook value for 8 of 10."""
    assert wilson_interval(0.8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_unsafe_recall_counts_labelled_responses_only():
    items = [
        ScoredPair(pair(0, "safety", safety=SafetyLabel.BOTH_UNSAFE), -1.0, 0.5),
        ScoredPair(pair(1, "safety", safety=SafetyLabel.CHOSEN_SAFE), -2.0, -0.1),
        ScoredPair(pair(2, "safety", safety=None), -2.0, -0.1),
    ]
    assert unsafe_recall(items) == {"recall": 2 / 3, "count": 3}
