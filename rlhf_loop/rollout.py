"""What PPO learns from: answers of the policy with their scores, log-probabilities and values.

B minibatch, Q query tokens, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reward.preferences import Message
from reward.score import Scorer
from rlhf_loop.advantages import combine_scores, estimate_advantages, shape_rewards, whiten
from rlhf_loop.config import Compute, PPOConfig
from rlhf_loop.engines import answer_prompts, engine_for
from rlhf_loop.policy import (
    Answer,
    Drawing,
    ValueHead,
    answer_text,
    chunks,
    left_pad,
    pad_token,
    prompt_tokens,
    response_logits,
    response_logprobs,
    right_pad,
)
from rlhf_loop.prompts import Prompt


class Scores(NamedTuple):
    """Raw scores (logits) of answers under both reward models, and the two combined."""

    helpfulness: Tensor  # (B,)
    safety: Tensor  # (B,)
    combined: Tensor  # (B,)


class RewardModels:
    """The two reward models of a round. Both read message lists through their own chat template."""

    def __init__(self, helpfulness: Path, safety: Path, threshold: float, compute: Compute) -> None:
        self.threshold = threshold
        self._helpfulness = Scorer(helpfulness, compute.device, compute.dtype)
        self._safety = Scorer(safety, compute.device, compute.dtype)

    def score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Scores:
        """Score ``texts[i]`` as the answer to ``prompts[i]``."""
        rows = [
            [*prompt.messages, Message("assistant", text)]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        helpfulness = self._helpfulness(rows)  # (B,)
        safety = self._safety(rows)  # (B,)
        is_safety = torch.tensor([prompt.is_safety for prompt in prompts])  # (B,)
        combined = combine_scores(helpfulness, safety, is_safety, self.threshold)
        return Scores(helpfulness, safety, combined)


class Rollout(NamedTuple):
    """Answers to B prompts under the policy as it was when it wrote them."""

    query: Tensor  # (B, Q) token ids, pads on the left
    query_mask: Tensor  # (B, Q) True: a token of the prompt
    response: Tensor  # (B, T) token ids, pads on the right
    mask: Tensor  # (B, T) True: a token that the policy wrote, its stop token included
    logprobs: Tensor  # (B, T) of the response under the policy, nats, at the rollout temperature
    ref_logprobs: Tensor  # (B, T) the same under the policy that PPO started from
    values: Tensor  # (B, T) of the state before each token is written
    scores: Tensor  # (B,) combined logit of helpfulness and safety
    helpfulness: Tensor  # (B,) raw score
    safety: Tensor  # (B,) raw score
    is_safety: Tensor  # (B,) True: the prompt is tagged as one that might elicit unsafe answers
    finished: Tensor  # (B,) False: cut at the longest allowed length


def take(rollout: Rollout, rows: Tensor) -> Rollout:
    """The rollout of those ``rows``, without the columns in which all of them are padded."""
    chosen = Rollout(*(field[rows] for field in rollout))
    queries = int(chosen.query_mask.sum(dim=1).amax())
    tokens = int(chosen.mask.sum(dim=1).amax())
    narrow = {name: getattr(chosen, name)[:, -queries:] for name in ("query", "query_mask")}
    for name in ("response", "mask", "logprobs", "ref_logprobs", "values"):
        narrow[name] = getattr(chosen, name)[:, :tokens]
    return chosen._replace(**narrow)


def sample_and_score(
    model: Any,
    tokenizer: Any,
    rewards: RewardModels,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    drawing: Drawing,
    compute: Compute,
) -> tuple[list[Answer], list[str], Scores]:
    """One answer to each prompt by its own seed: its tokens, its text, and the scores (B,)."""
    engine = engine_for(compute, model, tokenizer)
    answers = answer_prompts(engine, [prompt.messages for prompt in prompts], seeds, drawing)
    texts = [answer_text(tokenizer, answer) for answer in answers]
    return answers, texts, rewards.score(prompts, texts)


@torch.no_grad()
def collect(
    policy: Any,
    reference: Any,
    value_head: ValueHead,
    tokenizer: Any,
    rewards: RewardModels,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    drawing: Drawing,
    compute: Compute,
) -> Rollout:
    """Let the policy answer, score the answers, and note how likely and how promising each was."""
    answers, _, scores = sample_and_score(
        policy, tokenizer, rewards, prompts, seeds, drawing, compute
    )
    device, pad = policy.device, pad_token(tokenizer)
    queries = [prompt_tokens(tokenizer, prompt.messages) for prompt in prompts]
    query, query_mask = left_pad(queries, pad, device)  # (B, Q) both
    response, mask = right_pad([answer.tokens for answer in answers], pad, device)  # (B, T) both
    empty = torch.zeros(mask.shape, device=device)  # (B, T)
    rollout = Rollout(
        query, query_mask, response, mask, empty, empty, empty,
        scores.combined.to(device), scores.helpfulness.to(device), scores.safety.to(device),
        torch.tensor([prompt.is_safety for prompt in prompts], device=device),
        torch.tensor([answer.finished for answer in answers], device=device),
    )  # fmt: skip
    return _with_logprobs(rollout, policy, reference, value_head, drawing.temperature, compute)


def _with_logprobs(
    rollout: Rollout,
    policy: Any,
    reference: Any,
    value_head: ValueHead,
    temperature: float,
    compute: Compute,
) -> Rollout:
    found = [torch.zeros_like(rollout.logprobs) for _ in range(3)]  # (B, T) each
    everything = torch.arange(len(rollout.scores), device=rollout.mask.device)
    for part in chunks(len(everything), compute.forward_rows):
        rows = take(rollout, everything[part])
        inputs = (rows.query, rows.query_mask, rows.response, rows.mask)
        logits, hidden = response_logits(policy, *inputs)
        ref_logits, _ = response_logits(reference, *inputs)
        tokens = rows.mask.shape[1]
        found[0][part, :tokens] = response_logprobs(logits, rows.response, temperature)
        found[1][part, :tokens] = response_logprobs(ref_logits, rows.response, temperature)
        found[2][part, :tokens] = value_head(hidden)
    logprobs, ref_logprobs, values = (field.masked_fill(~rollout.mask, 0.0) for field in found)
    return rollout._replace(logprobs=logprobs, ref_logprobs=ref_logprobs, values=values)


class Targets(NamedTuple):
    """What the minibatches learn from; (B, T), B the whole batch of an iteration."""

    advantages: Tensor
    returns: Tensor
    mask: Tensor  # True: a token that counts in the losses
    rewards: Tensor


def counted_rows(rollout: Rollout, config: PPOConfig) -> Tensor:
    """(B,) True for answers that are learnt from: all, or with ``mask`` only the finished ones.

    Raises ValueError where that leaves none.
    """
    if config.truncated != "mask":
        return torch.ones_like(rollout.finished)
    if not bool(rollout.finished.any()):
        raise ValueError(
            f"every answer was cut at max_new_tokens {config.max_new_tokens} and truncated is "
            "'mask', which leaves nothing to learn from: allow longer answers"
        )
    return rollout.finished


def learning_targets(rollout: Rollout, config: PPOConfig) -> Targets:
    """Scores → whitened scores → rewards per token → advantages and returns (equation 4)."""
    rows = counted_rows(rollout, config)  # (B,)
    mask = rollout.mask & rows[:, None]  # (B, T)
    scores = rollout.scores
    if config.truncated == "penalise":
        scores = scores - config.truncated_penalty * (~rollout.finished).float()
    if config.whiten_scores:
        scores = whiten(scores, rows)
    rewards = shape_rewards(
        scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, config.kl_coef
    )
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = estimate_advantages(
        rewards, rollout.values, rollout.mask, config.gamma, config.lam
    )
    if config.whiten_advantages:
        advantages = whiten(advantages, mask)
    return Targets(advantages, returns, mask, rewards)
