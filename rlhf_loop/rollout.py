"""What PPO learns from: answers of the policy with their scores, log-probabilities and values.

B answers, those to one prompt one after the other; T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from reward import fsdp, ranks
from reward.preferences import Message
from reward.score import Scorer, TooLong
from rlhf_loop.advantages import (
    combine_scores,
    estimate_advantages,
    group_relative,
    leave_one_out,
    shape_rewards,
    whiten,
)
from rlhf_loop.config import PPOConfig, Scoring
from rlhf_loop.engines import Engine, answer_prompts
from rlhf_loop.policy import Answer, Drawing, answer_text
from rlhf_loop.prompts import Prompt


class Scores(NamedTuple):
    """Raw scores (logits) of answers under both reward models, and the two combined."""

    helpfulness: Tensor  # (B,)
    safety: Tensor  # (B,)
    combined: Tensor  # (B,)


class RewardModels:
    """The two reward models of a round; one folder for both is loaded, and asked, once. Each reads
    message lists through its own chat template."""

    def __init__(self, helpfulness: Path, safety: Path, threshold: float, compute: Scoring) -> None:
        self.threshold = threshold
        self._scorers = [
            Scorer(folder, compute.device, compute.dtype, compute.tokens_per_minibatch)
            for folder in dict.fromkeys((helpfulness.resolve(), safety.resolve()))
        ]
        self._divided: dict[Scorer, list[Tensor]] = {}
        if ranks.count() > 1:
            self._divided = {scorer: fsdp.put_away(scorer.model) for scorer in self._scorers}

    def score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Scores:
        """Score ``texts[i]`` as the answer to ``prompts[i]``.

        Raises ValueError naming the prompt where both together are too long for a reward model.
        """
        rows = [
            [*prompt.messages, Message("assistant", text)]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        try:
            asked = [self._ask(scorer, rows) for scorer in self._scorers]
        except TooLong as error:
            long = prompts[error.number].id
            raise ValueError(f"prompt {long!r} with its answer: {error}") from None
        helpfulness, safety = asked[0], asked[-1]  # (B,)
        is_safety = torch.tensor([prompt.is_safety for prompt in prompts], dtype=torch.bool)  # (B,)
        combined = combine_scores(helpfulness, safety, is_safety, self.threshold)
        return Scores(helpfulness, safety, combined)

    def _ask(self, scorer: Scorer, rows: Sequence[Sequence[Message]]) -> Tensor:
        if scorer not in self._divided:
            return scorer(rows)
        with fsdp.gathered(scorer.model, self._divided[scorer]):
            return scorer(rows)


def sample_and_score(
    engine: Engine,
    rewards: RewardModels,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    drawing: Drawing,
) -> tuple[list[Answer], list[str], Scores]:
    """One answer to each prompt by its own seed: its tokens, its text, and the scores (B,)."""
    answers = answer_prompts(engine, [prompt.messages for prompt in prompts], seeds, drawing)
    texts = [answer_text(engine.tokenizer, answer) for answer in answers]
    return answers, texts, rewards.score(prompts, texts)


# --- a batch of answers --------------------------------------------------------------------------


class Rollout(NamedTuple):
    """B answers under the policy as it was when it wrote them."""

    queries: list[list[int]]  # the tokens of each prompt
    responses: list[list[int]]  # the tokens that the policy wrote, stop tokens included
    mask: Tensor  # (B, T) True: a token of the response
    logprobs: Tensor  # (B, T) of the response under the policy, nats, at the rollout temperature
    ref_logprobs: Tensor  # (B, T) the same under the policy that divergence is measured from
    values: Tensor  # (B, T) of the state before each token is written; 0 where none are learnt
    recomputed: Tensor  # (B,) True: logprobs are by a pass of the trainer's, not by drawing
    scores: Tensor  # (B,) combined logit of helpfulness and safety
    helpfulness: Tensor  # (B,) raw score
    safety: Tensor  # (B,) raw score
    is_safety: Tensor  # (B,) True: the prompt is tagged as one that might elicit unsafe answers
    finished: Tensor  # (B,) False: cut at the longest allowed length

    def fill(self, field: Tensor, rows: Sequence[int], flat: Tensor) -> None:
        """Write ``flat``, the values of all tokens of these rows, into a (B, T) field."""
        block = field[list(rows)]
        block[self.mask[list(rows)]] = flat
        field[list(rows)] = block

    def flat(self, field: Tensor, rows: Sequence[int]) -> Tensor:
        """The values of a (B, T) field at all tokens of these rows, row by row."""
        return field[list(rows)][self.mask[list(rows)]]


def begin_rollout(
    prompts: Sequence[Prompt],
    queries: list[list[int]],
    answers: Sequence[Answer],
    scores: Scores,
    device: torch.device,
) -> Rollout:
    """A rollout whose log-probabilities and values are still to be filled in."""
    responses = [list(answer.tokens) for answer in answers]
    lengths = torch.tensor([len(response) for response in responses], device=device)  # (B,)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]  # (B, T)
    logprobs, ref_logprobs, values = torch.zeros(3, *mask.shape, device=device)  # (B, T) each
    return Rollout(
        queries, responses, mask, logprobs, ref_logprobs, values,
        torch.zeros(len(responses), dtype=torch.bool, device=device),
        scores.combined.to(device), scores.helpfulness.to(device), scores.safety.to(device),
        torch.tensor([prompt.is_safety for prompt in prompts], device=device),
        torch.tensor([answer.finished for answer in answers], device=device),
    )  # fmt: skip


def of_all_ranks(rollout: Rollout, own: Sequence[int], total: int) -> Rollout:
    """The answers that each rank drew, its ``own`` of ``total``, as one rollout on all of them."""
    if ranks.count() == 1:
        return rollout
    device, width = rollout.mask.device, int(ranks.largest(rollout.mask.shape[1]))

    def whole(field: Tensor) -> Tensor:
        if field.ndim == 2:
            field = torch.nn.functional.pad(field, (0, width - field.shape[1]))
        kind = torch.uint8 if field.dtype == torch.bool else field.dtype
        return ranks.put_together(own, field.to(kind), total).to(field.dtype)

    queries, responses, *fields = rollout
    return Rollout(
        _rows_of_all(queries, own, total, device),
        _rows_of_all(responses, own, total, device),
        *map(whole, fields),
    )


def _rows_of_all(
    rows: list[list[int]], own: Sequence[int], total: int, device: torch.device
) -> list[list[int]]:
    lengths = torch.tensor([len(row) for row in rows], device=device)
    width = int(ranks.largest(int(lengths.max())))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    counts = ranks.put_together(own, lengths, total).tolist()
    every = ranks.put_together(own, padded, total).tolist()
    return [row[:count] for row, count in zip(every, counts, strict=True)]


# --- what the minibatches learn from -------------------------------------------------------------


class Targets(NamedTuple):
    """What the minibatches learn from; B the whole batch of an iteration."""

    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T)
    mask: Tensor  # (B, T) True: a token that counts in the losses
    rewards: Tensor  # (B, T)
    scores: Tensor  # (B,) combined, the penalty for truncation taken off, not whitened
    counted: Tensor  # (B,) True: an answer that is learnt from


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


def penalised_scores(rollout: Rollout, config: PPOConfig) -> Tensor:
    """(B,) combined scores, the penalty for truncation taken off where there is one."""
    if config.truncated != "penalise":
        return rollout.scores
    return rollout.scores - config.truncated_penalty * (~rollout.finished).float()


def learning_targets(rollout: Rollout, config: PPOConfig) -> Targets:
    """Scores → whitened scores → rewards per token → advantages and returns (equation 4)."""
    rows = counted_rows(rollout, config)  # (B,)
    mask = rollout.mask & rows[:, None]  # (B, T)
    scores = penalised_scores(rollout, config)
    rewards = shape_rewards(
        whiten(scores, rows) if config.whiten_scores else scores,
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config.kl_coef, config.kl == "token",
    )  # fmt: skip
    if config.advantage == "gae":
        advantages, returns, rewards = _by_values(rewards, rollout, mask, config)
    else:
        advantages = _among_answers(rewards.sum(dim=1), rows, config)[:, None] * mask
        returns = torch.zeros_like(rewards)
    return Targets(advantages, returns, mask, rewards, scores, rows)


def _by_values(
    rewards: Tensor, rollout: Rollout, mask: Tensor, config: PPOConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages, returns and the rewards as they were used, (B, T) each."""
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = estimate_advantages(
        rewards, rollout.values, rollout.mask, config.gamma, config.lam
    )
    if config.whiten_advantages:
        advantages = whiten(advantages, mask)
    return advantages, returns, rewards


def _among_answers(rewards: Tensor, counted: Tensor, config: PPOConfig) -> Tensor:
    """(B,) advantages of whole answers with the rewards (B,), against those to the same prompt."""
    of = leave_one_out if config.advantage == "rloo" else group_relative
    groups = (field.view(-1, config.answers_per_prompt) for field in (rewards, counted))
    return of(*groups).view(-1)
