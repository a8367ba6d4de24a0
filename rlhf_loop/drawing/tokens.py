"""One token of every row, from its logits and its random number. R rows, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BIN = 128  # tokens of the vocabulary whose probabilities are summed before one is looked for
LIKELIEST = 256  # tokens among which top-p looks first


def draw_tokens(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor | None]:
    """One token per row by the inverse of the cumulative distribution, and its log-probability.

    ``logits``: (R, V) float32; ``uniform``: (R,) in [0, 1). Temperature 0 takes the most likely
    token and has no log-probabilities. Top-p keeps the smallest set of most likely tokens whose
    probability reaches it, of equally likely ones those with the lower ids. Returns tokens (R,) and
    natural log-probabilities (R,) in the full softmax at the temperature, also under top-p. Raises
    ValueError for logits that are not finite.
    """
    if temperature == 0:
        highest, likeliest = logits.max(dim=-1)
        _refuse_unfinite(highest)
        return likeliest, None
    weights = logits - logits.amax(dim=-1, keepdim=True)  # (R, V)
    if temperature != 1:
        weights /= temperature
    weights.exp_()  # the likeliest is 1
    totals = _bins(weights).sum(dim=-1).sum(dim=-1, dtype=torch.float64)  # (R,)
    _refuse_unfinite(totals)
    kept = weights if top_p >= 1.0 else _nucleus(weights, totals, top_p, LIKELIEST)
    drawn = _invert(kept, uniform.double())
    shares = weights.gather(-1, drawn[:, None])[:, 0].double() / totals
    return drawn, shares.log().float()


def _refuse_unfinite(found: Tensor) -> None:
    if not bool(found.isfinite().all()):
        raise ValueError("the model's logits are not finite, so no token can be drawn from them")


def _bins(weights: Tensor) -> Tensor:
    """(R, V) as (R, V / BIN, BIN), with zeros behind a last bin that is not full."""
    missing = -weights.shape[-1] % BIN
    return torch.unflatten(F.pad(weights, (0, missing)) if missing else weights, -1, (-1, BIN))


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """(R,) the token in whose stretch of the cumulative ``weights`` (R, V) ``uniform`` falls.

    First the bin, then the token in it, so that one pass over the vocabulary is enough. Sums of a
    bin are float32, everything beyond float64: a token is drawn with its weight's share to 1e-6 of
    that share, and never one of weight 0.
    """
    bins = _bins(weights)
    sums = bins.sum(dim=-1).double()  # (R, V / BIN)
    chosen, inside = _look_up(sums, uniform)
    rows = torch.arange(len(weights), device=weights.device)
    token, _ = _look_up(bins[rows, chosen].double(), inside)
    return chosen * BIN + token


def _look_up(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) where ``uniform`` falls in the cumulative ``weights`` (R, C), and how far in, [0, 1)."""
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = uniform[:, None] * total
    target = target.minimum(total.nextafter(torch.zeros_like(total)))  # never rounded up to it
    place = torch.searchsorted(cumulative, target, right=True)
    own = weights.gather(-1, place)
    start = cumulative.gather(-1, place) - own
    share = ((target - start) / own).clamp(0.0, 1.0)
    return place[:, 0], share[:, 0]


def _nucleus(weights: Tensor, totals: Tensor, top_p: float, likeliest: int) -> Tensor:
    """``weights`` (R, V), whose sums are ``totals`` (R,), with 0 for all outside the nucleus.

    It is looked for among the ``likeliest`` tokens, and among all in rows where these do not do.
    """
    count = min(likeliest, weights.shape[-1])
    top = weights.topk(count, dim=-1).values  # (R, count)
    shares = top.double() / totals[:, None]
    inside = shares.cumsum(dim=-1) - shares < top_p
    sizes = inside.sum(dim=-1)  # (R,)
    least = top.gather(-1, sizes[:, None] - 1)  # (R, 1)
    kept = weights.masked_fill(weights < least, 0.0)
    for row in ((kept > 0).sum(dim=-1) > sizes).nonzero()[:, 0].tolist():
        equal = (weights[row] == least[row]).nonzero()[:, 0]
        more = int((weights[row] > least[row]).sum())
        kept[row, equal[int(sizes[row]) - more :]] = 0.0
    rest = inside[:, -1] if count < weights.shape[-1] else torch.zeros_like(inside[:, -1])
    if bool(rest.any()):
        kept[rest] = _nucleus(weights[rest], totals[rest], top_p, weights.shape[-1])
    return kept
