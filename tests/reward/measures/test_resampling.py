"""Intervals and tests by dialogue root, against other derivations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from reward.measures.accuracy import ScoredPair
from reward.measures.resampling import Draws, accuracies, compare_pairwise, holm, sign_flip_p
from tests.reward.pairs import pair


def items(credits, roots=None) -> list[ScoredPair]:
    roots = roots if roots is not None else range(len(credits))
    return [
        ScoredPair(pair(0, id=str(i), root=str(root)), float(credit), 0.5)
        for i, (credit, root) in enumerate(zip(credits, roots, strict=True))
    ]


def test_it_works():
    (found,) = accuracies([items([1, 1, 1, 0] * 50)])
    assert (found["accuracy"], found["count"], found["roots"]) == (0.75, 200, 200)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * (0.75 * 0.25 / 200) ** 0.5, 0.1)


def test_ten_copies_of_a_dialogue_are_one_dialogue():
    """Pairs of one root that stand and fall together tell no more than one of them."""
    credits = [1, 1, 1, 0] * 10
    alone, copied = (
        accuracies([items(np.repeat(credits, n), np.repeat(range(40), n))])[0] for n in (1, 10)
    )
    width, copied_width = (found["high"] - found["low"] for found in (alone, copied))
    assert copied["accuracy"] == alone["accuracy"]
    assert copied_width > 0.85 * width
    assert copied["roots"] == 40


def test_a_small_group_that_is_all_right_is_not_certain():
    assert accuracies([items([1, 1, 1])])[0]["low"] < 0.5


def test_an_empty_group_is_undefined():
    full, empty = accuracies([items([1, 0]), []])
    assert full["count"] == 2
    assert empty == {"accuracy": None, "count": 0, "low": None, "high": None, "roots": 0}


def test_the_same_seed_gives_the_same_interval():
    some = items([1, 0, 1, 1, 0] * 20, np.repeat(range(20), 5))
    assert accuracies([some], Draws(500, 3)) == accuracies([some], Draws(500, 3))


def test_two_models_by_hand():
    found = compare_pairwise(items([1, 1, 1, 0]), items([1, 0, 0, 0]))
    assert found["difference"] == 0.5
    assert found["low"] <= 0.5 <= found["high"]
    assert [found[n] for n in ("both_right", "only_first", "only_second", "neither")] == [
        1,
        2,
        0,
        1,
    ]
    assert found["p_value"] == 0.5  # two roots differ, both for the first: 2 of 4 sign patterns
    back = compare_pairwise(items([1, 0, 0, 0]), items([1, 1, 1, 0]))
    assert back["difference"] == -0.5
    assert back["p_value"] == found["p_value"]


def test_equal_models_do_not_differ():
    found = compare_pairwise(items([1, 0]), items([1, 0]))
    assert (found["difference"], found["p_value"]) == (0, 1)


def test_different_pairs_are_refused():
    with pytest.raises(ValueError, match="on the same pairs only"):
        compare_pairwise(items([1, 0]), items([1]))


def test_signs_are_flipped_by_root():
    """Against every pattern of signs, written out."""
    sums = np.array([3, 1, -1, 2, 1, -2, 1.0])
    totals = [abs(sum(s * v for s, v in zip(signs, sums, strict=True)))
              for signs in itertools.product((1, -1), repeat=7)]  # fmt: skip
    exact = np.mean([total >= abs(sums.sum()) - 1e-9 for total in totals])
    assert sign_flip_p(sums, Draws()) == pytest.approx(exact)


def test_many_roots_are_drawn():
    """The same, of too many roots to try every pattern: within what drawing 10,000 leaves."""
    sums = np.array([3, 1, -1, 2, 1, -2, 1, 1, -1, 2, -2, 1, 1, 1.0]) / 3
    signs = np.array([*itertools.product((1, -1), repeat=len(sums))])
    exact = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean()
    assert sign_flip_p(sums, Draws()) == pytest.approx(exact, abs=0.015)


def test_whole_numbers_are_exact_however_many():
    sums = np.array([3, 1, -1, 2, 1, -2, 1, 1, -1, 2, -2, 1, 1, 1.0])
    signs = np.array([*itertools.product((1, -1), repeat=len(sums))])
    exact = (np.abs(signs @ sums) >= abs(sums.sum())).mean()
    assert sign_flip_p(sums) == pytest.approx(exact, abs=1e-12)
    mcnemar = binomtest(1300, 2500).pvalue
    assert sign_flip_p(np.repeat([1.0, 0.0, -1.0], [1300, 9000, 1200])) == pytest.approx(mcnemar)


def test_copies_of_a_difference_do_not_make_it_significant():
    """A hundred pairs of five dialogues, the first model right in all: p is that of five."""
    roots = np.repeat(range(5), 20)
    found = compare_pairwise(items([1] * 100, roots), items([0] * 100, roots))
    assert found["p_value"] == 2 / 32


def test_the_interval_covers():
    """95 % of the intervals of 200 simulated comparisons hold the true accuracy, 0.7, although the
    three pairs of a dialogue are alike; taking them for independent would cover far fewer."""
    numbers = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(200):
        rights = np.repeat(numbers.random(60) < 0.7, 3)
        (found,) = accuracies([items(rights, np.repeat(range(60), 3))], Draws(400))
        covered += found["low"] <= 0.7 <= found["high"]
        half = 1.96 * (rights.mean() * (1 - rights.mean()) / 180) ** 0.5
        naive += abs(rights.mean() - 0.7) <= half
    assert 0.9 <= covered / 200 <= 0.99
    assert naive / 200 < 0.85


def test_holm():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)
