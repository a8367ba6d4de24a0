"""The figures that PPO logs, in the names of lm-human-preferences and TRL.

B answers, T response tokens, N tokens in a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reward import ranks
from rlhf_loop.advantages import kl_k3, masked_mean, under_gate
from rlhf_loop.config import PPOConfig
from rlhf_loop.rollout import Rollout, Targets

MEANS = (
    "ppo/loss/policy", "ppo/policy/clipfrac", "ppo/policy/approxkl", "ppo/policy/entropy",
    "ppo/ratio",
)  # fmt: skip
VALUE_MEANS = ("ppo/loss/value", "ppo/val/clipfrac")
LARGEST = "ppo/ratio/error"  # of all tokens
OF_RECOMPUTED = "ppo/ratio/recomputed_error"  # of those whose old log-probabilities are a pass's


class StepFigures:
    """A gradient step's figures, put together of parts of it that may lie on several ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._errors: dict[str, list[Tensor]] = {LARGEST: [], OF_RECOMPUTED: []}

    def add(self, share: float, means: Mapping[str, Tensor]) -> None:
        """Means over the tokens of a part, which has this ``share`` of the step's tokens."""
        for name, value in means.items():
            part = share * value.detach()
            self._sums[name] = self._sums[name] + part if name in self._sums else part

    def compare(self, error: Tensor, recomputed: Tensor) -> None:
        """Distances of N ratios from 1, of which the largest are kept; both (N,)."""
        for name, found in ((LARGEST, error), (OF_RECOMPUTED, error[recomputed])):
            if len(found):
                self._errors[name].append(found.max())

    def whole(self, names: tuple[str, ...]) -> dict[str, float]:
        """Every figure over the whole step, on every rank; 0 where nothing was added. An error is
        left out where no rank has compared anything."""
        own = [float(self._sums.get(name, 0.0)) for name in names]
        means = dict(zip(names, ranks.summed(*own), strict=True))
        errors = {name: ranks.largest(_worst(found)) for name, found in self._errors.items()}
        return means | {name: error for name, error in errors.items() if error >= 0}


def _worst(errors: list[Tensor]) -> float:
    """The largest, -1 of none."""
    return torch.stack(errors).max().item() if errors else -1.0


def policy_figures(
    logprobs: Tensor, old_logprobs: Tensor, entropy: Tensor, config: PPOConfig
) -> dict[str, Tensor]:
    """Means over N tokens; all (N,), ``logprobs`` the policy's now, the old ones at rollout."""
    change = logprobs.detach() - old_logprobs  # (N,)
    ratio = change.exp()
    return {
        "ppo/policy/clipfrac": ((ratio - 1.0).abs() > config.cliprange).float().mean(),
        "ppo/policy/approxkl": 0.5 * (change**2).mean(),
        "ppo/policy/entropy": entropy.mean(),
        "ppo/ratio": ratio.mean(),
    }


def value_figures(values: Tensor, old_values: Tensor, config: PPOConfig) -> dict[str, Tensor]:
    """Means over N tokens; both (N,)."""
    moved = (values.detach() - old_values).abs() > config.cliprange_value
    return {"ppo/val/clipfrac": moved.float().mean()}


def rollout_figures(rollout: Rollout, targets: Targets, config: PPOConfig) -> dict[str, float]:
    """The figures of a batch before it is learnt from; means over its answers.

    ``objective/kl`` is the sum over tokens of log-probability less that of the reference, nats.
    ``objective/by_…`` are the shares of answers whose reward is the safety score because their
    prompt is tagged, the safety score because it is under the gate, and the helpfulness score;
    ``objective/scores_by_…`` their mean scores, left out where there is none. ``whiten/…`` are
    mean and deviation of the combined scores, which ``whiten_scores`` takes off and divides by.
    """
    log_ratio = rollout.logprobs - rollout.ref_logprobs  # (B, T), 0 outside the mask
    kl = log_ratio.sum(dim=1)  # (B,)
    gated = under_gate(rollout.safety, config.threshold) & ~rollout.is_safety  # (B,)
    decided = {
        "objective/scores_by_tag": rollout.is_safety,
        "objective/scores_by_gate": gated,
        "objective/scores_by_helpfulness": ~gated & ~rollout.is_safety,
    }
    known = targets.scores[targets.counted]
    found = {
        "objective/scores": rollout.scores.mean(),
        "objective/helpfulness": rollout.helpfulness.mean(),
        "objective/safety": rollout.safety.mean(),
        "objective/by_tag": rollout.is_safety.float().mean(),
        "objective/by_gate": gated.float().mean(),
        "objective/by_helpfulness": decided["objective/scores_by_helpfulness"].float().mean(),
        **{name: rollout.scores[those].mean() for name, those in decided.items() if those.any()},
        "objective/kl": kl.mean(),
        "objective/kl_k3": kl_k3(log_ratio).sum(dim=1).mean(),
        "objective/non_score_reward": -config.kl_coef * kl.mean(),
        "objective/rlhf_reward": targets.rewards.sum(dim=1).mean(),
        "objective/length_tokens": rollout.mask.sum(dim=1).float().mean(),
        "objective/truncated": (~rollout.finished).float().mean(),
        "whiten/mean": known.mean(),
        "whiten/deviation": known.std(correction=0),
        "logprobs/reused": (~rollout.recomputed).float().mean(),
    }
    if config.advantage == "gae":
        found |= _value_errors(rollout, targets)
    return {name: value.item() for name, value in found.items()}


def _value_errors(rollout: Rollout, targets: Targets) -> dict[str, Tensor]:
    """How far the values at rollout were from the returns, over the tokens that count."""
    missed = (targets.returns - rollout.values)[targets.mask]
    spread = targets.returns[targets.mask].var(correction=0).clamp(min=1e-8)
    return {
        "ppo/val/mean": masked_mean(rollout.values, targets.mask),
        "ppo/val/error": (missed**2).mean(),
        "ppo/val/explained_variance": 1.0 - missed.var(correction=0) / spread,
    }
