"""Pairs for the tests: politeness is good, so there is something to learn."""

from __future__ import annotations

from reward.preferences import (
    Criterion,
    Message,
    PreferencePair,
    PreferenceStrength,
    SafetyLabel,
    dialogue_root,
)

STRENGTHS = list(PreferenceStrength)
LABELS = [SafetyLabel.CHOSEN_SAFE, SafetyLabel.BOTH_SAFE, SafetyLabel.BOTH_UNSAFE, None]


def pair(number: int, criterion: str = "helpfulness", **fields) -> PreferencePair:
    """Pair ``number``: questions of different lengths, a polite answer chosen over a rude one."""
    prompt = (Message("user", f"Question {number}" + " please" * (number % 5)),)
    known = {
        "prompt": prompt,
        "chosen": f"Gladly, it is {number}." + " Anything else?" * (number % 3),
        "rejected": f"No, go away {number}.",
        "criterion": Criterion(criterion),
        "id": f"pair-{number}",
        "dialogue": f"dialogue-{number}",
        "root": dialogue_root(prompt),
        "strength": STRENGTHS[number % 4],
        "safety": LABELS[number % 4] if criterion == "safety" else None,
        "batch": f"Week {number % 2}",
        "source": "collected",
    }
    return PreferencePair(**{**known, **fields})


def pairs(count: int, criterion: str = "helpfulness", first: int = 0) -> list[PreferencePair]:
    return [pair(number, criterion) for number in range(first, first + count)]
