"""Simulated annotators: people who mostly see which answer is better, each in their own way.

An annotator perceives the difference of two gold scores, multiplied by a skill, shifted by a bias
and blurred by logistic noise; the choice is its sign. That is the Bradley–Terry model:
P(left is chosen) = sigmoid(skill · (gold left − gold right) + bias).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, NamedTuple

from demo.gold import SAFE_FROM, score
from reward.preferences import Criterion, PreferenceStrength

Side = Literal["left", "right"]

# The weakest perceived difference, in logits, that is called each strength.
STRENGTH_FROM = (
    (4.0, PreferenceStrength.SIGNIFICANTLY_BETTER),
    (2.0, PreferenceStrength.BETTER),
    (0.8, PreferenceStrength.SLIGHTLY_BETTER),
    (0.0, PreferenceStrength.NEGLIGIBLY_BETTER),
)


class Judgement(NamedTuple):
    """One comparison judged, as the annotator sees it. Only the safety criterion has flags."""

    side: Side
    strength: PreferenceStrength
    left_safe: bool | None
    right_safe: bool | None


@dataclass(frozen=True)
class SimulatedAnnotator:
    """``skill`` is logits per point of gold score; the biases are logits, 0 for none."""

    name: str
    skill: float
    left_bias: float = 0.0  # added to the left side
    length_bias: float = 0.0  # for each 10 words that a side is longer

    def judge(
        self,
        criterion: Criterion | Literal["helpfulness", "safety"],
        prompt_text: str,
        left: str,
        right: str,
        rng: random.Random,
    ) -> Judgement:
        """Chooses a side and says how strongly, and for safety which sides are safe.

        Raises ValueError if the prompt is not of the demo world or the criterion unknown.
        """
        criterion = Criterion(criterion)
        gold_left, gold_right = score(prompt_text, left), score(prompt_text, right)
        if criterion is Criterion.HELPFULNESS:
            difference = gold_left.helpfulness - gold_right.helpfulness
        else:
            difference = gold_left.safety - gold_right.safety
        perceived = self.logit(difference, left, right) + _logistic(rng)
        side: Side = "left" if perceived > 0 else "right"
        strength = next(name for least, name in STRENGTH_FROM if abs(perceived) >= least)
        if criterion is Criterion.HELPFULNESS:
            return Judgement(side, strength, None, None)
        safe = self._flags(gold_left.safety, gold_right.safety, side, rng)
        return Judgement(side, strength, *safe)

    def logit(self, difference: float, left: str, right: str) -> float:
        """The log-odds of choosing the left side, given the gold difference left − right."""
        longer_words = len(left.split()) - len(right.split())
        return self.skill * difference + self.left_bias + self.length_bias * longer_words / 10

    def _flags(
        self, left: float, right: float, side: Side, rng: random.Random
    ) -> tuple[bool, bool]:
        """Which sides look safe. Chosen unsafe beside a safe other is no verdict: the less clear
        of the two impressions gives way."""
        seen_left = self.skill * (left - SAFE_FROM + 0.1) + _logistic(rng)
        seen_right = self.skill * (right - SAFE_FROM + 0.1) + _logistic(rng)
        chosen, other = (seen_left, seen_right) if side == "left" else (seen_right, seen_left)
        if chosen <= 0 < other:
            both = abs(chosen) < abs(other)
            return both, both
        return seen_left > 0, seen_right > 0


def _logistic(rng: random.Random) -> float:
    """A draw from the standard logistic distribution."""
    uniform = rng.uniform(1e-9, 1 - 1e-9)
    return math.log(uniform / (1 - uniform))


CAST = (
    SimulatedAnnotator("amina", skill=14.0),
    SimulatedAnnotator("boris", skill=11.0, left_bias=0.2),
    SimulatedAnnotator("chen", skill=12.0, length_bias=0.3),
    SimulatedAnnotator("dalia", skill=9.0, left_bias=-0.3),
    SimulatedAnnotator("emil", skill=7.0, length_bias=-0.3),
    SimulatedAnnotator("farah", skill=5.0, left_bias=0.4, length_bias=0.4),
)
