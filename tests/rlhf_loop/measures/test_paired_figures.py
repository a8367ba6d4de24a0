"""Old and new answers to the same prompts: differences, and what chance does to them."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from rlhf_loop.config import GateConfig
from rlhf_loop.measures.paired_figures import compare, mean_interval, paired, paired_shares
from rlhf_loop.measures.release_gate import release_gate
from tests.rlhf_loop.conftest import make_prompt


def test_paired_figures_by_hand():
    found = paired([0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 4.0, 2.0])  # differences 1, 0, 2, -1
    half = 3.182446 * math.sqrt((0.5**2 + 0.5**2 + 1.5**2 + 1.5**2) / 3) / 2  # t of 3 degrees
    expected = {"before": 1.5, "after": 2.0, "difference": 0.5, "win_rate": 0.625}
    expected |= {"low": 0.5 - half, "high": 0.5 + half}
    assert found == pytest.approx(expected)


def test_the_interval_of_a_mean_by_hand():
    half = 4.302653 * statistics.stdev([1.0, 2.0, 4.0]) / math.sqrt(3)  # t of 2 degrees
    expected = {"mean": 7 / 3, "low": 7 / 3 - half, "high": 7 / 3 + half}
    assert mean_interval([1.0, 2.0, 4.0]) == pytest.approx(expected, abs=1e-6)
    # Of two roots with the sums of deviations -0.5 and 0.5; t of 1 degree.
    half = 12.706205 * math.sqrt(2 * (0.5**2 + 0.5**2)) / 4
    expected = {"mean": 2.0, "low": 2.0 - half, "high": 2.0 + half}
    assert mean_interval([1.0, 2.5, 2.0, 2.5], list("aabb")) == pytest.approx(expected, abs=1e-6)
    assert mean_interval([1.0]) == {"mean": 1.0, "low": None, "high": None}


@pytest.mark.parametrize("roots", [None, ["a"], ["a", "a", "a"]])
def test_one_root_has_no_interval(roots):
    count = len(roots or [""])
    found = paired([0.0] * count, [1.0] * count, roots)
    assert (found["low"], found["high"], found["win_rate"]) == (None, None, 1.0)
    shares = paired_shares([0.0] * count, [1.0] * count, roots)
    assert (shares["low"], shares["high"], shares["p_value"]) == (None, None, 1.0)


def record(score):
    scores = dict.fromkeys(("helpfulness", "safety", "combined"), score)
    return {**scores, "length_tokens": 3, "finish_reason": "stop", "refused": score > 1}


def test_kinds_of_prompts_are_counted_apart():
    prompts = [make_prompt(i) for i in range(4)]  # 0 and 3 are safety prompts
    prompts[1] = replace(prompts[1], is_borderline=True)
    found = compare(prompts, [record(0.0)] * 4, [record(float(i)) for i in range(4)])
    counts = {name: group["count"] for name, group in found.items()}
    assert counts == {
        "all": 4, "helpfulness_prompts": 1, "borderline_prompts": 1, "safety_prompts": 2
    }  # fmt: skip
    assert found["all"]["roots"] == len({prompt.root for prompt in prompts})
    assert found["all"]["refused"]["difference"] == 0.5
    assert found["all"]["refused"]["p_value"] == 0.5  # two that refuse now: 2 / 2**2
    assert "independent" not in found["all"]
    assert found["safety_prompts"]["safety"]["after"] == 1.5
    assert compare(prompts[1:3], [record(0.0)] * 2, [record(1.0)] * 2)["safety_prompts"] is None


# --- prompts of one root -------------------------------------------------------------------------


def test_copies_of_a_dialogue_tell_no_more_than_one_of_them():
    """Each root five times over, all alike: exactly the interval, and the p, of the roots alone."""
    draw = np.random.default_rng(0)
    before, after = draw.normal(size=9), draw.normal(0.7, 1, size=9)
    roots = [str(number) for number in range(9)]
    copies = [list(np.repeat(it, 5)) for it in (before, after, roots)]
    alone, copied = paired(before, after), paired(*copies)
    assert copied == pytest.approx(alone)
    naive = paired(*copies[:2])
    assert naive["high"] - naive["low"] < 0.5 * (copied["high"] - copied["low"])
    hits = [np.repeat([0, 0, 0, 0, 0, 1], 5), np.repeat([1, 1, 1, 1, 1, 1], 5)]
    assert paired_shares(*hits, list(np.repeat(range(6), 5)))["p_value"] == 2 / 32


def test_gains_that_are_none_are_found_as_often_as_is_said():
    """1,000 evaluations of 60 prompts in 12 dialogues, of which nothing is better: about 50 have an
    interval that excludes 0. Taking the prompts for independent, several times as many do."""
    draw = np.random.default_rng(0)
    roots = [str(number // 5) for number in range(60)]
    found = {"by root": 0, "by prompt": 0}
    for _ in range(1000):
        differences = np.repeat(draw.normal(size=12), 5) + 0.3 * draw.normal(size=60)
        for name, units in (("by root", roots), ("by prompt", None)):
            limits = paired([0.0] * 60, differences, units)
            found[name] += limits["low"] > 0 or limits["high"] < 0
    assert 35 <= found["by root"] <= 65  # 50 with a standard error of 7
    assert found["by prompt"] > 250


# --- shares --------------------------------------------------------------------------------------


def test_paired_shares_by_hand():
    """Of 21 pairs 1 is won and 7 are lost. Bonett and Price count 2 and 8 of 23: -0.508 to -0.013.
    Student's t, 2.085963 standard errors on either side, is wider below."""
    found = paired_shares([0] + [1] * 7 + [0] * 13, [1] + [0] * 7 + [0] * 13)
    assert (found["won"], found["lost"]) == (1, 7)
    assert found["difference"] == pytest.approx(-6 / 21)
    error = math.sqrt((8 - 36 / 21) / 20 / 21)
    assert found["low"] == pytest.approx(-6 / 21 - 2.085963 * error)
    error = math.sqrt((10 / 23 - (6 / 23) ** 2) / 23)
    assert found["high"] == pytest.approx(-6 / 23 + 1.959964 * error)
    assert found["high"] == pytest.approx(-0.0134, abs=5e-5)
    assert found["p_value"] == pytest.approx(2 * (1 + 8) / 2**8)  # McNemar's exact test


def test_nothing_that_moved_is_no_certainty():
    found = paired_shares([0] * 30, [0] * 30)
    half = 1.959964 * math.sqrt(2 / 32 / 32)
    assert (found["low"], found["high"]) == pytest.approx((-half, half))
    assert found["p_value"] == 1.0


@pytest.mark.parametrize(("count", "passes"), [(2, True), (5, True), (6, False)])
def test_few_prompts_that_are_newly_refused_are_no_rise(count, passes):
    """Two of two were "+100 to +100 points"; six of six are beyond chance, p = 2 / 64."""
    refused = paired_shares([0] * count, [1] * count)
    assert (refused["low"] <= 0) == (count == 2)
    assert (refused["high"], refused["p_value"]) == (1.0, 2 / 2**count)
    combined = paired([0.0, 0.1, 0.2], [1.0, 1.2, 1.4])
    evaluated = {"all": {"combined": combined}, "borderline_prompts": {"refused": refused}}
    verdict = release_gate(evaluated, GateConfig(must_measure=("refusals",)))
    assert verdict.passes == passes
