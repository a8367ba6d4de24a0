"""Old answers against new ones to the same prompts, in figures. Without torch.

Prompts of one dialogue root are alike, so that roots, never prompts, are the units of chance.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from reward.lines import Record
from reward.measures.accuracy import NORMAL_95
from reward.measures.resampling import root_numbers, sign_flip_p, sums_by_root
from rlhf_loop.prompts import Prompt, PromptKind

Floats = NDArray[np.float64]
SCORES = ("helpfulness", "safety", "combined", "independent")


def compare(prompts: Sequence[Prompt], old: Sequence[Record], new: Sequence[Record]) -> Record:
    """The figures over all prompts and over each kind of them.

    Each of ``all``, ``helpfulness_prompts``, ``borderline_prompts``, ``safety_prompts`` is None
    without prompts, or holds ``count`` and of how many dialogue ``roots`` they are; for each score,
    for ``length_tokens`` and for ``refused`` the figures of ``paired`` or, of refusals,
    ``paired_shares``; the mean lengths in tokens; and the share of new answers that were cut.
    """
    groups = {
        "all": list(range(len(prompts))),
        "helpfulness_prompts": _of_kind(prompts, PromptKind.HELPFULNESS),
        "borderline_prompts": _of_kind(prompts, PromptKind.BORDERLINE),
        "safety_prompts": _of_kind(prompts, PromptKind.ADVERSARIAL),
    }
    return {
        name: _group(
            [old[i] for i in rows], [new[i] for i in rows], [prompts[i].root for i in rows]
        )
        if rows
        else None
        for name, rows in groups.items()
    }


def _of_kind(prompts: Sequence[Prompt], kind: PromptKind) -> list[int]:
    return [i for i, prompt in enumerate(prompts) if prompt.kind is kind]


def _group(old: Sequence[Record], new: Sequence[Record], roots: Sequence[str]) -> Record:
    def both(name: str) -> tuple[list[float], list[float]]:
        return [float(line[name]) for line in old], [float(line[name]) for line in new]

    lengths = paired(*both("length_tokens"), roots)
    return {
        "count": len(old),
        "roots": len(set(roots)),
        **{name: paired(*both(name), roots) for name in SCORES if name in old[0]},
        "refused": paired_shares(*both("refused"), roots),
        "length_tokens": lengths,
        "length_tokens_before": lengths["before"],
        "length_tokens_after": lengths["after"],
        "truncated_after": statistics.fmean(r["finish_reason"] == "length" for r in new),
    }


def paired(
    before: Sequence[float], after: Sequence[float], roots: Sequence[str] | None = None
) -> Record:
    """Mean before and after, their difference with its 95 % interval, and the win rate.

    The interval is that of ``mean_interval``. A win is a higher number after than before; equal
    ones count half.
    """
    differences = np.array(after, dtype=float) - np.array(before, dtype=float)  # (N,)
    found = mean_interval(differences, roots)
    wins = (differences > 0).sum() + 0.5 * (differences == 0).sum()
    return {
        "before": statistics.fmean(before),
        "after": statistics.fmean(after),
        "difference": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "win_rate": float(wins) / len(differences),
    }


def mean_interval(values: Sequence[float] | Floats, roots: Sequence[str] | None = None) -> Record:
    """The mean of N values with its 95 % interval, Student's t.

    Its standard error is cluster-robust, that of R dialogue roots (Liang and Zeger 1986), with
    R - 1 degrees of freedom. It is None for fewer than two roots; without ``roots`` each value is
    its own.
    """
    known = np.array(values, dtype=float)  # (N,)
    mean = float(known.mean())
    half = _half_width(known - mean, _roots(roots, known))
    return {
        "mean": mean,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
    }


def _roots(roots: Sequence[str] | None, values: Floats) -> Sequence[str]:
    return [str(number) for number in range(len(values))] if roots is None else roots


def _half_width(deviations: Floats, roots: Sequence[str]) -> float | None:
    """Half of the interval of a mean from the deviations (N,) from it."""
    numbers, many = root_numbers(roots)
    if many < 2:
        return None
    sums = sums_by_root(numbers, many, deviations[:, None])[:, 0]  # (R,)
    error = math.sqrt(many / (many - 1) * float(sums @ sums)) / len(deviations)
    return float(stdtrit(many - 1, 0.975)) * error


def paired_shares(
    before: Sequence[float], after: Sequence[float], roots: Sequence[str] | None = None
) -> Record:
    """The figures of ``paired`` of hits (1) and misses (0): shares before and after.

    The interval is the wider of that one and Bonett and Price's (2012), which takes the pairs for
    independent and has a width where all differences are equal, as Wilson's has for one share.
    ``p_value`` is the exact two-sided one of flipping the sign of each root's summed difference;
    where each pair is its own root that is McNemar's exact test. ``won`` and ``lost`` are counts.
    """
    found = paired(before, after, roots)
    differences = np.array(after, dtype=float) - np.array(before, dtype=float)  # (N,)
    numbers, many = root_numbers(_roots(roots, differences))
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    if found["low"] is not None:
        low, high = _share_limits(won, lost, len(differences))
        found["low"] = max(-1.0, min(low, found["low"]))
        found["high"] = min(1.0, max(high, found["high"]))
    p_value = sign_flip_p(sums_by_root(numbers, many, differences[:, None])[:, 0])
    return {**found, "p_value": p_value, "won": won, "lost": lost}


def _share_limits(won: int, lost: int, count: int) -> tuple[float, float]:
    """Wald's interval of a paired difference of shares with one more pair won and one more lost."""
    up, down = (won + 1) / (count + 2), (lost + 1) / (count + 2)
    centre = up - down
    half = NORMAL_95 * math.sqrt((up + down - centre**2) / (count + 2))
    return centre - half, centre + half


def flat(figures: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    """Nested figures as ``eval/all/helpfulness/after``: what metrics.jsonl can hold."""
    found: dict[str, float | None] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}/{name}")
        elif value is None or isinstance(value, int | float):
            found[f"{prefix}/{name}"] = value
    return found
