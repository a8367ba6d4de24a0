"""The figures that PPO logs, in the names of lm-human-preferences and TRL.

B minibatch, T response tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_loop.advantages import kl_k3, masked_mean
from rlhf_loop.config import PPOConfig
from rlhf_loop.rollout import Rollout, Targets

STEP_FIGURES = (
    "ppo/loss/policy", "ppo/loss/value", "ppo/policy/clipfrac", "ppo/policy/approxkl",
    "ppo/policy/entropy", "ppo/ratio", "ppo/ratio/error", "ppo/val/clipfrac", "ppo/grad_norm",
)  # fmt: skip


def step_figures(
    batch: Rollout,
    logits: Tensor,
    logprobs: Tensor,
    values: Tensor,
    mask: Tensor,
    config: PPOConfig,
) -> dict[str, float]:
    """The figures of one part of a minibatch; means over the tokens that ``mask`` (B, T) counts.

    ``logits`` (B, T, V), ``logprobs`` and ``values`` (B, T) are the policy's now, the batch's own
    are those at rollout.
    """
    change = (logprobs - batch.logprobs).masked_fill(~mask, 0.0)  # (B, T)
    ratio = change.exp()
    spread = torch.log_softmax(logits / config.temperature, dim=-1)  # (B, T, V)
    entropy = -(spread.exp() * spread).sum(dim=-1)  # (B, T)
    outside = (ratio - 1.0).abs() > config.cliprange
    moved = (values - batch.values).abs() > config.cliprange_value
    return {
        "ppo/policy/clipfrac": masked_mean(outside.float(), mask).item(),
        "ppo/policy/approxkl": 0.5 * masked_mean(change**2, mask).item(),
        "ppo/policy/entropy": masked_mean(entropy, mask).item(),
        "ppo/ratio": masked_mean(ratio, mask).item(),
        "ppo/ratio/error": (ratio - 1.0).abs().max().item(),
        "ppo/val/clipfrac": masked_mean(moved.float(), mask).item(),
    }


def rollout_figures(rollout: Rollout, targets: Targets, config: PPOConfig) -> dict[str, float]:
    """The figures of a batch before it is learnt from; means over its answers.

    ``objective/kl`` is the sum over tokens of log-probability less that of the start policy, nats;
    ``objective/gated`` the share decided by the safety score although the prompt is no safety one.
    """
    log_ratio = rollout.logprobs - rollout.ref_logprobs  # (B, T), 0 outside the mask
    kl = log_ratio.sum(dim=1)  # (B,)
    gated = (rollout.scores == rollout.safety) & ~rollout.is_safety  # (B,)
    spread = targets.returns[targets.mask].var(correction=0).clamp(min=1e-8)
    missed = (targets.returns - rollout.values)[targets.mask].var(correction=0)
    return {
        "objective/scores": rollout.scores.mean().item(),
        "objective/helpfulness": rollout.helpfulness.mean().item(),
        "objective/safety": rollout.safety.mean().item(),
        "objective/gated": gated.float().mean().item(),
        "objective/kl": kl.mean().item(),
        "objective/kl_k3": kl_k3(log_ratio).sum(dim=1).mean().item(),
        "objective/non_score_reward": -config.kl_coef * kl.mean().item(),
        "objective/rlhf_reward": targets.rewards.sum(dim=1).mean().item(),
        "objective/length_tokens": rollout.mask.sum(dim=1).float().mean().item(),
        "objective/truncated": (~rollout.finished).float().mean().item(),
        "ppo/val/mean": masked_mean(rollout.values, targets.mask).item(),
        "ppo/val/explained_variance": (1.0 - missed / spread).item(),
    }
