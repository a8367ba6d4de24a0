"""The losses of a reward model, on raw scores (logits). B is the minibatch of pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from reward.preferences import PreferenceStrength

_NO_MARGIN: dict[PreferenceStrength | None, float] = {
    None: 0.0,
    **dict.fromkeys(PreferenceStrength, 0.0),
}

# Llama 2, table 27; an unknown strength has no margin.
MARGINS: dict[str, dict[PreferenceStrength | None, float]] = {
    "none": _NO_MARGIN,
    "small": _NO_MARGIN
    | {
        PreferenceStrength.SIGNIFICANTLY_BETTER: 1.0,
        PreferenceStrength.BETTER: 2 / 3,
        PreferenceStrength.SLIGHTLY_BETTER: 1 / 3,
    },
    "large": _NO_MARGIN
    | {
        PreferenceStrength.SIGNIFICANTLY_BETTER: 3.0,
        PreferenceStrength.BETTER: 2.0,
        PreferenceStrength.SLIGHTLY_BETTER: 1.0,
    },
}


def ranking_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor,
    weight: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Mean of ``-log sigmoid(chosen - rejected - margin)`` (Llama 2, equation 2).

    ``chosen``, ``rejected``, ``margin``, ``weight`` and ``target`` are (B,); with weights it is the
    weighted mean. ``target`` is the probability that the chosen one is the better one, 1 without
    it; then it is the cross entropy against it. Computed by softplus, so that no difference
    overflows. Returns a scalar ().
    """
    logit = chosen - rejected - margin  # (B,)
    loss = F.softplus(-logit)
    if target is not None:
        loss = loss + (1 - target) * logit  # -p log sigmoid(x) - (1-p) log sigmoid(-x)
    return loss.mean() if weight is None else (loss * weight).sum() / weight.sum()


def tie_loss(chosen: Tensor, rejected: Tensor, threshold: float, weight: Tensor) -> Tensor:
    """Weighted mean of ``-log P(tie)`` of responses that annotators left undecided.

    Rao and Kupper (1967): with a threshold t above 0 a response is chosen with the probability
    sigmoid(d - t), d the difference of scores, and a tie is what the two choices leave over,
    (exp(2t) - 1) sigmoid(d - t) sigmoid(-d - t). Decided pairs then have t added to their margin.
    ``chosen``, ``rejected`` (in any order) and ``weight`` are (B,); returns a scalar ().
    """
    apart = chosen - rejected  # (B,)
    either = F.softplus(threshold - apart) + F.softplus(threshold + apart)
    loss = either - 2 * threshold - math.log(-math.expm1(-2 * threshold))
    return (loss * weight).sum() / weight.sum()


def centring_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of ``(chosen + rejected)²``: holds the scores of a pair around 0, which the ranking loss
    leaves open (Eisenstein et al. 2023, section 2). Both (B,); returns a scalar ().
    """
    return (chosen + rejected).square().mean()


def safety_auxiliary_loss(
    chosen: Tensor, rejected: Tensor, chosen_safe: Tensor, rejected_safe: Tensor, known: Tensor
) -> Tensor:
    """Binary cross entropy of sigmoid(score) against "is safe", mean over the known responses.

    All are (B,); True in ``chosen_safe`` and ``rejected_safe`` means the response is safe, True in
    ``known`` that the pair's label is known. The paper trains with such a loss and does not print
    it (appendix A.3.3); this is the plain form. Returns a scalar (), 0 where nothing is known.
    """
    scores = torch.cat([chosen, rejected])  # (2B,)
    safe = torch.cat([chosen_safe, rejected_safe]).to(scores.dtype)
    mask = torch.cat([known, known]).to(scores.dtype)
    loss = F.binary_cross_entropy_with_logits(scores, safe, reduction="none")  # (2B,)
    return (loss * mask).sum() / mask.sum().clamp(min=1)
