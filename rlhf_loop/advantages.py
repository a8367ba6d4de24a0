"""From scores to advantages: the arithmetic of Llama 2's equation 4, of PPO, RLOO and GRPO.

Pure functions on tensors. B minibatch, T response tokens, P prompts with K answers each. In every
mask True means "a token that the policy wrote" (its stop token included); what stands elsewhere is
never read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WHITEN_EPS = 1e-8


def combine_scores(
    helpfulness: Tensor, safety: Tensor, is_safety_prompt: Tensor, threshold: float = 0.15
) -> Tensor:
    """R_c of section 3.2.3, as a logit: the safety score where it must decide, else helpfulness.

    ``helpfulness``, ``safety``: (B,) raw scores (logits; the paper's R_h and R_s are their
    sigmoids). ``is_safety_prompt``: (B,) bool, True where the prompt is tagged as one that might
    elicit an unsafe answer. ``threshold``: a probability; the safety score also decides where it
    lies strictly under logit(threshold). Returns (B,) logits: LOGIT(R_c) of the paper, without the
    loss of precision of going through the sigmoid and back.

    Raises ValueError for a threshold outside 0 to 1.
    """
    return torch.where(is_safety_prompt | under_gate(safety, threshold), safety, helpfulness)


def under_gate(safety: Tensor, threshold: float) -> Tensor:
    """(B,) bool: raw safety scores (B,) strictly under logit(threshold), a probability.

    Raises ValueError for a threshold outside 0 to 1.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold is {threshold!r}, allowed is between 0 and 1")
    gate = math.log(threshold) - math.log1p(-threshold)
    # Compared in the scores' own precision, so that a score of exactly logit(0.15) is not under it.
    return safety < torch.tensor(gate, dtype=safety.dtype, device=safety.device)


def whiten(values: Tensor, mask: Tensor | None = None, shift_mean: bool = True) -> Tensor:
    """Scale to unit variance: ``(x - mean) / sqrt(variance + 1e-8)``, population variance.

    ``values``: any shape; ``mask``: the same shape, True where a value counts (None: everywhere).
    ``shift_mean=False`` adds the mean back, so only the scale changes (lm-human-preferences).
    One counted value, or equal ones, become 0. Places outside the mask come back as 0.

    Raises ValueError where the mask counts nothing.
    """
    weight = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    count = weight.sum()
    if count == 0:
        raise ValueError("the mask counts no value, allowed is one or more")
    known = values if mask is None else values.masked_fill(~mask.bool(), 0.0)
    mean = known.sum() / count
    centred = (known - mean) * weight
    whitened = centred * torch.rsqrt((centred**2).sum() / count + WHITEN_EPS)
    return whitened if shift_mean else whitened + mean * weight


def shape_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    kl_coef: float,
    per_token: bool = True,
) -> Tensor:
    """One reward per token: equation 4, its KL term spread over the tokens that cause it.

    ``scores``: (B,). ``logprobs``, ``ref_logprobs``: (B, T) of the response tokens under the policy
    and under the one it started from, natural logarithms. ``mask``: (B, T) bool. Every token gets
    ``-kl_coef * (logprob - ref_logprob)``, or with ``per_token`` False the last one gets them all;
    the last masked token also gets the score. Returns (B, T), 0 outside the mask; a row's sum is
    ``score - kl_coef * KL estimate`` in either case.

    The estimate is the plain log-ratio (k1): of the usual ones only its mean, put into the reward,
    has the gradient of the divergence. Raises ValueError for a row without a token.
    """
    if not bool(mask.any(dim=1).all()):
        raise ValueError("a response has no token, allowed is one or more")
    log_ratio = (logprobs - ref_logprobs).masked_fill(~mask, 0.0)  # (B, T)
    rewards = -kl_coef * log_ratio  # (B, T)
    if not per_token:
        scores, rewards = scores + rewards.sum(dim=1), torch.zeros_like(rewards)
    rows = torch.arange(mask.shape[0], device=mask.device)  # (B,)
    rewards[rows, last_token(mask)] += scores
    return rewards


def kl_k3(log_ratio: Tensor) -> Tensor:
    """Schulman's k3 estimate of the KL divergence, ``exp(-k) - 1 + k``: same mean, never negative.

    ``log_ratio``: log-probability under the policy that wrote the token less that under the other
    one, any shape. A figure to watch only: its gradient is not that of the divergence.
    """
    return torch.expm1(-log_ratio) + log_ratio


def last_token(mask: Tensor) -> Tensor:
    """(B,) index of the last True of each row of ``mask`` (B, T)."""
    positions = torch.arange(mask.shape[1], device=mask.device)  # (T,)
    return torch.where(mask, positions, -1).amax(dim=1)


def estimate_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16), not whitened.

    ``rewards``, ``values``: (B, T), the value being that of the state before the token is written.
    ``mask``: (B, T) bool, True for a row's first so many tokens; the value after the last of them
    is 0. ``gamma``: discount per token; ``lam``: lambda. Returns advantages (B, T) and returns
    ``advantages + values`` (B, T), both 0 outside the mask.
    """
    values = values.masked_fill(~mask, 0.0)
    rewards = rewards.masked_fill(~mask, 0.0)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)  # (B, T)
    deltas = rewards + gamma * next_values - values  # (B, T)
    advantages = torch.zeros_like(values)  # (B, T)
    running = torch.zeros_like(values[:, 0])  # (B,)
    for step in reversed(range(values.shape[1])):
        running = deltas[:, step] + gamma * lam * running
        running = running.masked_fill(~mask[:, step], 0.0)
        advantages[:, step] = running
    return advantages, advantages + values


def leave_one_out(rewards: Tensor, counted: Tensor) -> Tensor:
    """RLOO: each answer's reward less the mean of the other answers' to the same prompt.

    Kool et al. 2019, equation 8; Ahmadian et al. 2024, section 3.2. ``rewards``: (P, K) of whole
    answers, the KL term included; ``counted``: (P, K) bool, False for answers that are neither
    learnt from nor part of a baseline. Returns (P, K), 0 where nothing is counted or nothing else.
    """
    known = rewards.masked_fill(~counted, 0.0)
    others = counted.sum(dim=1, keepdim=True) - 1  # (P, 1)
    baseline = (known.sum(dim=1, keepdim=True) - known) / others.clamp(min=1)  # (P, K)
    return (known - baseline).masked_fill(~counted | (others < 1), 0.0)


def group_relative(rewards: Tensor, counted: Tensor) -> Tensor:
    """GRPO: each answer's reward, whitened among the answers to the same prompt.

    Shao et al. 2024, section 4.1.2. Arguments and result as ``leave_one_out``; the deviation is
    that of the population, with WHITEN_EPS under the root, so equal rewards become 0.
    """
    known = rewards.masked_fill(~counted, 0.0)
    count = counted.sum(dim=1, keepdim=True).clamp(min=1)  # (P, 1)
    centred = (known - known.sum(dim=1, keepdim=True) / count) * counted  # (P, K)
    variance = (centred**2).sum(dim=1, keepdim=True) / count  # (P, 1)
    return centred * torch.rsqrt(variance + WHITEN_EPS)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is True, 0 where it is True nowhere.

    What is masked has no gradient, whatever stands there. Both of one shape; returns ().
    """
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
