"""Old answers against new ones to the same prompts, in figures. Standard library only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_loop.prompts import Prompt, PromptKind

Record = dict[str, Any]
NORMAL_95 = 1.959964  # two-sided 95 % of the normal distribution
SCORES = ("helpfulness", "safety", "combined", "independent")


def compare(prompts: Sequence[Prompt], old: Sequence[Record], new: Sequence[Record]) -> Record:
    """The figures over all prompts and over each kind of them.

    Each of ``all``, ``helpfulness_prompts``, ``borderline_prompts``, ``safety_prompts`` is None
    without prompts, or holds ``count``; for each score, for ``length_tokens`` and for ``refused``
    the figures of ``paired``; the mean lengths in tokens; and the share of new answers that were
    cut.
    """
    groups = {
        "all": list(range(len(prompts))),
        "helpfulness_prompts": _of_kind(prompts, PromptKind.HELPFULNESS),
        "borderline_prompts": _of_kind(prompts, PromptKind.BORDERLINE),
        "safety_prompts": _of_kind(prompts, PromptKind.ADVERSARIAL),
    }
    return {name: _group([old[i] for i in rows], [new[i] for i in rows]) if rows else None
            for name, rows in groups.items()}  # fmt: skip


def _of_kind(prompts: Sequence[Prompt], kind: PromptKind) -> list[int]:
    return [i for i, prompt in enumerate(prompts) if prompt.kind is kind]


def _group(old: Sequence[Record], new: Sequence[Record]) -> Record:
    lengths = _paired(old, new, "length_tokens")
    return {
        "count": len(old),
        **{name: _paired(old, new, name) for name in SCORES if name in old[0]},
        "refused": _paired(old, new, "refused"),
        "length_tokens": lengths,
        "length_tokens_before": lengths["before"],
        "length_tokens_after": lengths["after"],
        "truncated_after": statistics.fmean(r["finish_reason"] == "length" for r in new),
    }


def _paired(old: Sequence[Record], new: Sequence[Record], name: str) -> dict[str, float | None]:
    return paired([float(line[name]) for line in old], [float(line[name]) for line in new])


def paired(before: Sequence[float], after: Sequence[float]) -> dict[str, float | None]:
    """Mean before and after, their difference with its 95 % interval, and the win rate.

    The interval is the normal one of the paired differences, None for a single pair. A win is a
    higher number after than before; equal ones count half.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    difference = statistics.fmean(differences)
    half = None
    if len(differences) > 1:
        half = NORMAL_95 * statistics.stdev(differences) / math.sqrt(len(differences))
    wins = sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences)
    return {
        "before": statistics.fmean(before),
        "after": statistics.fmean(after),
        "difference": difference,
        "low": None if half is None else difference - half,
        "high": None if half is None else difference + half,
        "win_rate": wins / len(differences),
    }


def flat(figures: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    """Nested figures as ``eval/all/helpfulness/after``: what metrics.jsonl can hold."""
    found: dict[str, float | None] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}/{name}")
        elif value is None or isinstance(value, int | float):
            found[f"{prefix}/{name}"] = value
    return found
