"""A reward model on preferences whose noise is known: what the best accuracy is, is known too."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.known_noise import figures, simulate, train_on
from tests.tiny_models import tiny_chat_model

SETTINGS = {"learning_rate": 3e-3, "pairs_per_step": 16, "weight_decay": 0.0, "device": "cpu"}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[tuple[int, str], dict[str, float]]:
    """The figures by number of pairs and margin."""
    work = tmp_path_factory.mktemp("noise")
    model, holdout = tiny_chat_model(work / "chat"), simulate(800, seed=1, first=10**6)
    table = {}
    for count, margin in ((60, "none"), (800, "none"), (800, "large")):
        scored = train_on(
            simulate(count, 0), holdout, model, work / f"{count}-{margin}", margin=margin,
            **SETTINGS,
        )  # fmt: skip
        table[count, margin] = figures(scored, holdout)
    return table


def test_the_simulation_is_what_it_says():
    """Verdicts come out as often as their probability says."""
    drawn = simulate(20_000, seed=3)
    credit = (drawn.likely > 0.5) + 0.5 * (drawn.likely == 0.5)
    assert credit.mean() == pytest.approx(drawn.bayes_rate, abs=0.015)
    sure = drawn.likely[np.abs(drawn.likely - 0.5) > 0.35]
    assert (sure > 0.5).mean() == pytest.approx(np.maximum(sure, 1 - sure).mean(), abs=0.015)


def test_accuracy_goes_to_the_bayes_rate(found):
    few, many = found[60, "none"], found[800, "none"]
    assert many["accuracy"] > few["accuracy"]
    assert many["accuracy"] == pytest.approx(many["bayes_rate"], abs=0.035)
    assert many["truly_better"] > 0.88


def test_probabilities_go_to_the_true_ones(found):
    few, many = found[60, "none"], found[800, "none"]
    assert many["distance"] < 0.75 * few["distance"]
    assert many["ece"] < 0.08


def test_margins_spread_the_scores_and_cost_calibration(found):
    """Figure 27: with the large margin scores lie further apart; the ranking stays."""
    none, large = found[800, "none"], found[800, "large"]
    assert large["score_sd"] > 1.5 * none["score_sd"]
    assert large["ece"] > none["ece"]
    assert large["accuracy"] == pytest.approx(none["accuracy"], abs=0.03)
