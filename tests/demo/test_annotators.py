"""Simulated annotators follow the Bradley–Terry model, each with a skill and a bias."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from demo.annotators import CAST, SimulatedAnnotator
from demo.gold import score
from reward.preferences import STRONGEST_FIRST, Criterion

WARRANTY = "How long is the warranty on the Auvero kettle?"  # 24 months
GOOD, MIDDLING, BAD = (
    "It lasts 24 months. It starts when you buy it. Keep the receipt.",
    "It lasts 24 months.",
    "It lasts 12 months.",
)
ACCOUNT = "How do I get into someone else's Brindle speaker account?"
SAFE, UNSAFE = (
    "I cannot help. That is illegal. Please ask the owner.",
    "Enter the service code. Then guess the password.",
)


def share_left(
    annotator: SimulatedAnnotator,
    left: str,
    right: str,
    criterion: str = "helpfulness",
    count: int = 2000,
) -> float:
    prompt = WARRANTY if criterion == "helpfulness" else ACCOUNT
    rng = random.Random(0)
    verdicts = (
        annotator.judge(Criterion(criterion), prompt, left, right, rng) for _ in range(count)
    )
    return sum(verdict.side == "left" for verdict in verdicts) / count


@pytest.mark.parametrize("skill", [0.0, 1.0, 3.0])
def test_choices_follow_bradley_terry(skill: float) -> None:
    difference = score(WARRANTY, GOOD).helpfulness - score(WARRANTY, MIDDLING).helpfulness
    assert difference == 0.5
    expected = 1 / (1 + math.exp(-skill * difference))
    share = share_left(SimulatedAnnotator("x", skill), GOOD, MIDDLING)
    assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 2000))


def test_a_left_bias_alone_chooses_left() -> None:
    share = share_left(SimulatedAnnotator("x", 5.0, left_bias=1.0), GOOD, GOOD)
    assert share == pytest.approx(1 / (1 + math.exp(-1.0)), abs=4 * math.sqrt(0.25 / 2000))


def test_a_length_bias_favours_the_longer_answer() -> None:
    wordy = "It lasts 24 months, that is two years, that is 24 months and no more."
    assert share_left(SimulatedAnnotator("x", 0.0, length_bias=1.0), wordy, MIDDLING) > 0.6


def test_everyone_in_the_cast_mostly_sees_the_better_answer() -> None:
    for annotator in CAST:
        assert share_left(annotator, GOOD, BAD, count=300) > 0.93
        assert share_left(annotator, BAD, GOOD, count=300) < 0.07
        assert share_left(annotator, SAFE, UNSAFE, "safety", count=300) > 0.93


def test_the_criteria_pull_apart_on_unsafe_prompts() -> None:
    rng = random.Random(0)
    amina = CAST[0]
    helpful = [amina.judge("helpfulness", ACCOUNT, SAFE, UNSAFE, rng).side for _ in range(200)]
    safe = [amina.judge("safety", ACCOUNT, SAFE, UNSAFE, rng).side for _ in range(200)]
    assert Counter(helpful)["right"] > 180
    assert Counter(safe)["left"] > 180


def test_the_cast_differs_in_skill_and_bias() -> None:
    assert len(CAST) >= 6
    assert len({annotator.name for annotator in CAST}) == len(CAST)
    assert len({annotator.skill for annotator in CAST}) == len(CAST)
    assert any(annotator.left_bias for annotator in CAST)
    assert any(annotator.length_bias for annotator in CAST)


def test_strength_grows_with_the_difference() -> None:
    rng = random.Random(0)
    amina = CAST[0]

    def mean_rank(left: str, right: str) -> float:
        verdicts = (amina.judge("helpfulness", WARRANTY, left, right, rng) for _ in range(500))
        return sum(STRONGEST_FIRST.index(verdict.strength) for verdict in verdicts) / 500

    assert mean_rank(GOOD, BAD) < mean_rank(GOOD, MIDDLING) < mean_rank(GOOD, GOOD)


def test_all_four_strengths_are_used() -> None:
    rng = random.Random(0)
    used = {
        annotator.judge("helpfulness", WARRANTY, left, right, rng).strength
        for annotator in CAST
        for left in (GOOD, MIDDLING, BAD)
        for right in (GOOD, MIDDLING, BAD)
        for _ in range(20)
    }
    assert used == set(STRONGEST_FIRST)


def test_only_safety_verdicts_have_flags() -> None:
    rng = random.Random(0)
    assert CAST[0].judge("helpfulness", ACCOUNT, SAFE, UNSAFE, rng)[2:] == (None, None)
    flags = Counter(CAST[0].judge("safety", ACCOUNT, SAFE, UNSAFE, rng)[2:] for _ in range(300))
    assert flags.most_common(1)[0][0] == (True, False)


def test_a_chosen_unsafe_answer_never_stands_beside_a_safe_one() -> None:
    rng = random.Random(0)
    clumsy = SimulatedAnnotator("x", skill=1.0)
    seen = Counter()
    for _ in range(3000):
        verdict = clumsy.judge("safety", ACCOUNT, SAFE, UNSAFE, rng)
        flags = (verdict.left_safe, verdict.right_safe)
        chosen, other = flags if verdict.side == "left" else flags[::-1]
        seen[chosen, other] += 1
    assert set(seen) == {(True, True), (True, False), (False, False)}


def test_the_same_random_state_gives_the_same_verdict() -> None:
    for annotator in CAST:
        first = annotator.judge("safety", ACCOUNT, SAFE, UNSAFE, random.Random(7))
        assert annotator.judge("safety", ACCOUNT, SAFE, UNSAFE, random.Random(7)) == first


def test_prompts_and_criteria_of_elsewhere_are_refused() -> None:
    with pytest.raises(ValueError, match="not a prompt of the demo world"):
        CAST[0].judge("safety", "What is love?", SAFE, UNSAFE, random.Random(0))
    with pytest.raises(ValueError, match="honesty"):
        CAST[0].judge("honesty", ACCOUNT, SAFE, UNSAFE, random.Random(0))  # type: ignore[arg-type]
