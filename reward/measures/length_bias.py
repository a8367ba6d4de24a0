"""Whether a reward model pays for length: slopes and accuracies. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reward.measures.accuracy import ScoredPair
from reward.measures.resampling import Draws, Floats, accuracies, bootstrap

PER_CHARACTERS = 100
SLOPES = ("slope", "slope_beyond_choice", "correlation")


def length_bias(scored: Sequence[ScoredPair], draws: Draws = Draws()) -> dict[str, Any]:
    """Slopes of score difference on length difference, in score per 100 characters, with 95 %
    intervals by dialogue root.

    ``slope`` is the line through the origin, which is the fit to both orders of every pair: all of
    the association, people's own taste for long answers included. ``slope_beyond_choice`` has an
    intercept with the chosen answer first, so it says what length adds to the score among answers
    that people decided on alike. ``correlation`` belongs to ``slope``. Characters, since every
    model has tokens of its own.
    """
    lengths = [len(item.pair.chosen) - len(item.pair.rejected) for item in scored]
    different = [(item, length) for item, length in zip(scored, lengths, strict=True) if length]
    longer = [float(length > 0) for _, length in different]
    preferred = [item.credit if length > 0 else 1 - item.credit for item, length in different]
    of_sign: dict[int, list[ScoredPair]] = {1: [], -1: [], 0: []}
    for item, length in zip(scored, lengths, strict=True):
        of_sign[(length > 0) - (length < 0)].append(item)
    won, lost, same = accuracies([*of_sign.values()], draws)
    return {
        "count": len(scored),
        "unit": "characters",
        **_slopes(scored, lengths, draws),
        "chosen_longer": sum(longer) / len(longer) if longer else None,
        "model_prefers_longer": sum(preferred) / len(preferred) if preferred else None,
        "longer_won": won,
        "longer_lost": lost,
        "same_length": same,
    }


def _slopes(
    scored: Sequence[ScoredPair], lengths: Sequence[int], draws: Draws
) -> dict[str, float | None]:
    names = [f"{name}{end}" for name in SLOPES for end in ("", "_low", "_high")]
    if not scored:
        return dict.fromkeys(names)
    x = np.array(lengths, dtype=float) / PER_CHARACTERS
    y = np.array([item.difference for item in scored])
    moments = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    roots = [item.pair.root for item in scored]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _from_moments(moments.sum(axis=0, keepdims=True))[0]
    low, high = bootstrap(roots, moments, _from_moments, draws)
    figures = [figure for three in zip(found, low, high, strict=True) for figure in three]
    return {
        name: float(figure) if np.isfinite(figure) else None
        for name, figure in zip(names, figures, strict=True)
    }


def _from_moments(sums: Floats) -> Floats:
    """The three figures (B, 3) from the sums (B, 6) of 1, x, y, x², xy, y²."""
    n, x, y, xx, xy, yy = sums.T
    spread = xx - x * x / n
    spread = np.where(spread > 1e-9 * xx, spread, np.nan)
    found: Floats = np.column_stack([xy / xx, (xy - x * y / n) / spread, xy / np.sqrt(xx * yy)])
    return found
