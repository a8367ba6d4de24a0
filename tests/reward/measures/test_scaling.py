"""The line through accuracies of different numbers of comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from reward.measures.accuracy import ScoredPair
from reward.measures.resampling import Draws
from reward.measures.scaling import Point, fitted, measured
from tests.reward.pairs import pair


def points(accuracies, sizes, count=2000) -> list[Point]:
    found = []
    for accuracy, size in zip(accuracies, sizes, strict=True):
        rights = [float(i < accuracy * count) for i in range(count)]
        found.append(
            Point("x", size, [[ScoredPair(pair(i), r, 0.5) for i, r in enumerate(rights)]])
        )
    return found


def test_the_line_by_hand():
    """Five points more for every doubling, from 100 to 800; the next 800 are one doubling."""
    found = fitted(points([0.55, 0.6, 0.65, 0.7], [100, 200, 400, 800]), 800, Draws(200))
    assert found["fit"]["per_doubling"] == pytest.approx(0.05)
    assert found["fit"]["r_squared"] == pytest.approx(1)
    assert found["next"]["gain"] == pytest.approx(0.05)
    assert found["next"]["low"] < 0.05 < found["next"]["high"]


def test_the_next_step_is_the_last_one_again():
    found = fitted(points([0.55, 0.6, 0.65], [100, 200, 400]), 0, Draws(200))
    assert found["next"]["pairs"] == 200
    assert found["next"]["gain"] == pytest.approx(0.05 * np.log2(1.5))


def test_two_points_are_no_line():
    assert fitted(points([0.5, 0.6], [100, 200]), 0, Draws(200)) == {"fit": None, "next": None}


def test_two_models_of_the_same_size_are_no_step():
    """Trained twice on the same comparisons, with other settings, say: the step before counts."""
    found = fitted(points([0.55, 0.6, 0.65, 0.65], [100, 200, 400, 400]), 0, Draws(200))
    assert found["next"]["pairs"] == 200
    assert found["next"]["gain"] > 0


def test_points_are_measured_with_their_seeds():
    (one,) = points([0.6], [100], count=10)
    other = [ScoredPair(pair(number), 0.0, 1.0) for number in range(10)]
    found = measured([one._replace(scored=[*one.scored, other])], 0, Draws(200))
    assert found["points"][0]["by_seed"] == [0.6, 0.0]
    assert (found["points"][0]["accuracy"], found["points"][0]["count"]) == (0.3, 10)
