"""Agreement against published values and a second implementation."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from annotation_app.agreement import gwet_ac, krippendorff_alpha, percent_agreement

NAN = math.nan
RAW_4_RATERS = [  # irrCAC, cac.raw4raters
    [1, 1, NAN, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4],
    [4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [NAN, 5, 5, 5], [NAN, NAN, 1, 1], [NAN, NAN, 3, NAN],
]  # fmt: skip
FIVE_OBSERVERS = [  # Gwet (2014), one row for each observer, 15 units scored 0 to 3
    [1, 1, 2, NAN, 0, 0, 1, 1, 2, 2, NAN, 0, 1, 3, 1],
    [1, 1, 3, 0, 0, 0, 0, NAN, 2, 1, 1, 0, 2, 3, 1],
    [2, 0, 3, 0, 0, 0, 2, 2, 2, 1, 0, 0, 2, 2, 1],
    [NAN, 1, 3, NAN, NAN, NAN, NAN, 0, NAN, 1, 0, 0, 2, 2, NAN],
    [2, NAN, NAN, 0, 0, 0, 1, NAN, 2, NAN, NAN, NAN, NAN, 3, 1],
]
SIX_PSYCHIATRISTS = [  # Fleiss (1971), one row for each diagnosis: how many gave it to a patient
    [0, 0, 0, 0, 0, 2, 0, 2, 2, 0, 1, 1, 0, 1, 0],
    [0, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 1, 3, 0, 2],
    [0, 0, 4, 0, 0, 4, 4, 3, 0, 0, 0, 0, 3, 0, 0],
    [6, 0, 0, 0, 3, 0, 0, 1, 4, 0, 5, 4, 0, 5, 3],
    [0, 3, 1, 6, 0, 0, 2, 0, 0, 6, 0, 0, 0, 0, 1],
]
SEVEN_POINTS = [
    (1, 2, 1), (4, 4, 5), (7, 6, 7), (3, 3, 3), (2, 5, 4), (6, 6, 6), (5, 4, 4), (1, 1, 2),
    (7, 7, 6), (4, 2, 3),
]  # fmt: skip
PREVALENT = [(5, 5, 5)] * 16 + [(5, 4, 5)] * 2 + [(2, 1, 2), (4, 5, 2)]


def from_table(table: list[list[int]]) -> list[tuple[int, int]]:
    """Two raters' ratings from their contingency table."""
    return [
        (row + 1, column + 1)
        for row, counts in enumerate(table)
        for column, count in enumerate(counts)
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("weights", "coefficient", "error"),
    [
        ("identity", 0.77544, 0.14295),
        ("quadratic", 0.91400, 0.10396),
        ("linear", 0.858739, 0.117329),
        ("ordinal", 0.898940, 0.106904),
    ],
)
def test_published_raw_ratings(weights, coefficient, error):
    found = gwet_ac(RAW_4_RATERS, range(1, 6), weights)
    assert found.coefficient == pytest.approx(coefficient, abs=5e-6)
    assert found.standard_error == pytest.approx(error, abs=5e-6)


def test_published_interval():
    found = gwet_ac(RAW_4_RATERS, range(1, 6))
    assert (round(found.low, 3), found.high) == (0.461, 1.0)


def test_published_observers():
    found = gwet_ac(np.transpose(FIVE_OBSERVERS), range(4))
    assert found[:2] == pytest.approx((0.496622, 0.121973), abs=1e-6)


def test_published_distribution():
    patients = [
        [k for k, count in enumerate(counts) for _ in range(count)]
        for counts in np.transpose(SIX_PSYCHIATRISTS)
    ]
    assert gwet_ac(patients, range(5))[:2] == pytest.approx((0.4448007, 0.0841876), abs=1e-6)
    quadratic = gwet_ac(patients, range(5), "quadratic")
    assert quadratic[:2] == pytest.approx((0.4837438, 0.1058227), abs=1e-6)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ([[13, 0, 0], [0, 20, 7], [0, 4, 56]], (0.8493305, 0.9402369, 0.900023, 0.925192)),
        (
            [[40, 6, 4, 15], [4, 25, 1, 5], [4, 2, 21, 9], [17, 13, 12, 45]],
            (0.456158, 0.298573, 0.377068, 0.324069),
        ),
    ],
)
def test_published_tables(table, values):
    for weights, value in zip(("identity", "quadratic", "linear", "ordinal"), values, strict=True):
        found = gwet_ac(from_table(table), range(1, len(table) + 1), weights)
        assert found.coefficient == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "coefficient", "error"),
    [
        ("identity", 0.300820, 0.126888),
        ("linear", 0.682794, 0.080232),
        ("quadratic", 0.869872, 0.053597),
        ("ordinal", 0.828716, 0.058869),
    ],
)
def test_seven_point_scale(weights, coefficient, error):
    found = gwet_ac(SEVEN_POINTS, range(1, 8), weights)
    assert found[:2] == pytest.approx((coefficient, error), abs=1e-6)


def test_the_full_scale_matters():
    clipped = np.clip(SEVEN_POINTS, 2, 6)
    assert gwet_ac(clipped, range(1, 8), "quadratic")[0] == pytest.approx(0.925997, abs=1e-6)
    assert gwet_ac(clipped, range(2, 7), "quadratic")[0] == pytest.approx(0.819549, abs=1e-6)


def test_prevalence():
    violating = np.array(PREVALENT) <= 2
    assert gwet_ac(violating, (0, 1))[0] == pytest.approx(0.961929, abs=1e-6)
    assert gwet_ac(PREVALENT, range(1, 6), "quadratic")[0] == pytest.approx(0.973924, abs=1e-6)
    assert gwet_ac(PREVALENT, range(1, 6), "ordinal")[0] == pytest.approx(0.966956, abs=1e-6)


def random_ratings(seed: int) -> np.ndarray:
    """Thirty subjects with a true value each, five raters who miss some and err by one or two."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 9, size=(30, 1))
    ratings = np.clip(truth + rng.integers(-2, 3, size=(30, 5)), 1, 8).astype(float)
    ratings[rng.random(ratings.shape) < 0.3] = np.nan
    ratings[0] = [1, 8, np.nan, np.nan, np.nan]  # both ends occur
    return ratings


@pytest.mark.parametrize(
    ("seed", "weights", "coefficient", "error"),
    [
        (0, "identity", 0.171700, 0.056869),
        (0, "linear", 0.447407, 0.090928),
        (0, "quadratic", 0.594696, 0.147980),
        (0, "ordinal", 0.565962, 0.135802),
        (1, "identity", 0.154828, 0.061003),
        (1, "linear", 0.427791, 0.085674),
        (1, "quadratic", 0.593222, 0.144093),
        (1, "ordinal", 0.561014, 0.131764),
    ],
)
def test_gwet_equals_a_second_implementation(seed, weights, coefficient, error):
    """What irrCAC 0.4.4 printed for these ratings; it wants a pandas older than ours."""
    found = gwet_ac(random_ratings(seed), range(1, 9), weights)
    assert found[:2] == pytest.approx((coefficient, error), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_equals_a_second_implementation(seed, level):
    import krippendorff

    ratings = random_ratings(seed)
    theirs = krippendorff.alpha(
        reliability_data=ratings.T, value_domain=list(range(1, 9)), level_of_measurement=level
    )
    found = krippendorff_alpha(ratings, range(1, 9), level)
    assert found.coefficient == pytest.approx(theirs, abs=1e-9)
    assert found.low < found.coefficient < found.high


def test_perfect_agreement_is_1():
    ratings = [(1, 1), (2, 2), (3, 3)]
    assert gwet_ac(ratings, (1, 2, 3)).coefficient == 1
    assert krippendorff_alpha(ratings, (1, 2, 3)).coefficient == 1
    assert percent_agreement(ratings, (1, 2, 3)) == (1, 0, 1, 1)


@pytest.mark.parametrize("ratings", [np.empty((0, 2)), [(1, NAN), (NAN, 2)]])
def test_nothing_rated_twice_is_undefined(ratings):
    for measure in (gwet_ac, krippendorff_alpha, percent_agreement):
        assert all(math.isnan(value) for value in measure(ratings, (1, 2)))


def test_alpha_without_variation_is_undefined():
    assert math.isnan(krippendorff_alpha([(1, 1), (1, 1)], (1, 2)).coefficient)
    assert gwet_ac([(1, 1), (1, 1)], (1, 2)).coefficient == 1


def test_a_rating_off_the_scale_is_refused():
    with pytest.raises(ValueError, match="rating 9 is none of the categories"):
        gwet_ac([(1, 9)], range(1, 9))


def test_it_needs_no_django():
    code = "import sys, annotation_app.agreement; sys.exit('django.conf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
