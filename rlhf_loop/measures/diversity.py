"""How alike a model's answers to one prompt are: Self-BLEU (Zhu et al. 2018, "Texygen").

Each answer is measured by BLEU (Papineni et al. 2002) against the other answers to the same prompt;
the mean is 1 where all are the same. Clipped n-gram precisions up to ``ORDER`` with equal weights,
the brevity penalty with the closest reference, and 0.1 in place of a count of 0 (Chen and Cherry
2014, method 1, as Texygen has it). An answer shorter than ``ORDER`` words is measured by the
n-grams that it has, so that a short answer which is always the same counts as the same.
Standard library only.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDER = 4
EPSILON = 0.1
WORD = re.compile(r"\w+|[^\w\s]")

Counts = list[Counter[tuple[str, ...]]]


def words(text: str) -> list[str]:
    """Words and punctuation marks, as they stand."""
    return WORD.findall(text)


def self_bleu(answers: Sequence[str]) -> float:
    """Mean BLEU of each answer against the others, 0 to 1. Raises ValueError for fewer than 2."""
    if len(answers) < 2:
        raise ValueError(f"Self-BLEU of {len(answers)} answers, allowed are 2 or more")
    tokens = [words(answer) for answer in answers]
    counts = [_counts(row) for row in tokens]
    scores = [
        _bleu(row, counts[i], tokens[:i] + tokens[i + 1 :], counts[:i] + counts[i + 1 :])
        for i, row in enumerate(tokens)
    ]
    return sum(scores) / len(scores)


def _counts(tokens: Sequence[str]) -> Counts:
    """How often each n-gram stands there, for n = 1 … ORDER."""
    return [
        Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        for n in range(1, ORDER + 1)
    ]


def _bleu(
    tokens: Sequence[str], counts: Counts, others: Sequence[Sequence[str]], known: Sequence[Counts]
) -> float:
    """BLEU of an answer against references; 0 for an empty answer or no common word."""
    order = min(ORDER, len(tokens))
    if not order:
        return float(any(not other for other in others))
    logs = []
    for n in range(order):
        most: Counter[tuple[str, ...]] = Counter()
        for other in known:
            most |= other[n]
        hits = (counts[n] & most).total()
        if n == 0 and not hits:
            return 0.0
        logs.append(math.log((hits or EPSILON) / counts[n].total()))
    closest = min((abs(len(other) - len(tokens)), len(other)) for other in others)[1]
    penalty = min(1.0, math.exp(1.0 - closest / len(tokens)))
    return penalty * math.exp(sum(logs) / order)
