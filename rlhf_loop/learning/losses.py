"""The losses of PPO, to be minimised. Pure functions on tensors of any one shape."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_loop.advantages import masked_mean


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float
) -> Tensor:
    """The clipped surrogate of PPO (Schulman et al. 2017, equation 7).

    All (B, T), or flat; ``old_logprobs`` are those of the policy that wrote the tokens, mask True
    where a token counts. Returns the mean over those tokens, ().
    """
    ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0).exp()  # (B, T)
    clipped = ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * clipped), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float
) -> Tensor:
    """Half the larger of the squared errors of the value and of the clipped value.

    All (B, T), or flat, mask True where a token counts. The clipped value lies within
    ``cliprange_value`` of the value at rollout (lm-human-preferences). Returns the mean over those
    tokens, ().
    """
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    squares = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)  # (B, T)
    return 0.5 * masked_mean(squares, mask)
