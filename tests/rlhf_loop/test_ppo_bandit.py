"""PPO, RLOO and GRPO come to the optimum that is known in closed form.

Answers of two tokens out of four, a reward for each answer: what maximises reward less beta times
the divergence from the reference is pi*(answer) ∝ pi_0(answer) exp(reward / beta). The policy is a
table; advantages and losses are the trainer's own.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf_loop.config import PPOConfig
from rlhf_loop.learning.losses import policy_loss, value_loss
from rlhf_loop.rollout import Rollout, learning_targets

WORDS, BETA, RATE = 4, 0.5, 0.06
INPUTS = {name: Path("unread") for name in ("prompts", "policy", "helpfulness", "safety", "out")}
NUMBERS = torch.Generator().manual_seed(0)
PAY = torch.rand(WORDS, WORDS, generator=NUMBERS) * 2
REFERENCE = torch.randn(WORDS + 1, WORDS, generator=NUMBERS).log_softmax(-1)
"""Log-probabilities of the first token in row 0, of the second in row 1 + first."""


def answer_logprobs(table):
    """(WORDS, WORDS) log-probability of every answer."""
    return table[0][:, None] + table[1:]


def optimum(pay, beta=BETA):
    return (answer_logprobs(REFERENCE) + pay / beta).flatten().softmax(-1)


def token_logprobs(table, answers):
    """(B, 2) of the tokens of answers (B, 2)."""
    second = table[1 + answers[:, 0], answers[:, 1]]
    return torch.stack([table[0, answers[:, 0]], second], dim=1)


def draw(table, count, numbers):
    drawn = answer_logprobs(table).flatten().exp()
    every = torch.multinomial(drawn, count, replacement=True, generator=numbers)
    return torch.stack([every // WORDS, every % WORDS], dim=1)


def rollout_of(answers, table, values):
    count = len(answers)
    pay = PAY[answers[:, 0], answers[:, 1]]
    nowhere, everywhere = torch.zeros(count).bool(), torch.ones(count).bool()
    return Rollout(
        [[0]] * count, answers.tolist(), torch.ones(count, 2, dtype=torch.bool),
        token_logprobs(table, answers), token_logprobs(REFERENCE, answers), values,
        everywhere, pay, pay, pay, nowhere, everywhere,
    )  # fmt: skip


def trained(config, iterations=100):
    """The distribution over answers that learning comes to."""
    numbers = torch.Generator().manual_seed(1)
    logits = REFERENCE.clone().requires_grad_()
    values = torch.zeros(WORDS + 1, requires_grad=True)  # before the first token, after each
    optimiser = torch.optim.Adam([{"params": [logits]}, {"params": [values], "lr": 0.1}], lr=RATE)
    for iteration in range(iterations):
        optimiser.param_groups[0]["lr"] = RATE * (1 - iteration / iterations)
        answers = draw(logits.detach().log_softmax(-1), config.batch, numbers)
        estimated = torch.stack([values[0].expand(len(answers)), values[1 + answers[:, 0]]], dim=1)
        rollout = rollout_of(answers, logits.detach().log_softmax(-1), estimated.detach())
        targets = learning_targets(rollout, config)
        for rows in torch.arange(config.batch).split(config.minibatch):
            mask = targets.mask[rows]
            now = token_logprobs(logits.log_softmax(-1), answers[rows])
            held = torch.stack([values[0].expand(len(rows)), values[1 + answers[rows, 0]]], dim=1)
            loss = policy_loss(
                now, rollout.logprobs[rows], targets.advantages[rows], mask, config.cliprange
            ) + value_loss(held, rollout.values[rows], targets.returns[rows], mask, 10.0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return answer_logprobs(logits.detach().log_softmax(-1)).flatten().exp()


def apart(one, two):
    """Total variation distance."""
    return 0.5 * (one - two).abs().sum().item()


WAYS = {
    "ppo": {},
    "ppo, penalty on the last token": {"kl": "sequence"},
    "ppo, advantages as they are": {"whiten_advantages": False},
    "rloo": {"advantage": "rloo", "answers_per_prompt": 4},
    "grpo": {"advantage": "grpo", "answers_per_prompt": 4},
}


def settings(**chosen):
    return PPOConfig(**INPUTS, batch=512, minibatch=256, kl_coef=BETA, **chosen)


@pytest.mark.parametrize("way", WAYS)
def test_it_comes_to_the_closed_form(way):
    reached = trained(settings(whiten_scores=False, **WAYS[way]))
    expected = optimum(PAY)
    assert apart(answer_logprobs(REFERENCE).flatten().exp(), expected) > 0.3
    assert apart(reached, expected) < 0.01


def test_with_whitened_scores_it_is_that_of_the_whitened_reward():
    """Whose deviation is that under the policy itself: the fixed point, found apart. (With too
    small a beta there is none but a single answer, whose deviation is 0.)"""
    expected = optimum(PAY, 2.0)
    for _ in range(200):
        mean = (expected * PAY.flatten()).sum()
        deviation = (expected * (PAY.flatten() - mean) ** 2).sum().sqrt()
        expected = 0.5 * expected + 0.5 * optimum(PAY / deviation, 2.0)
    assert apart(expected, optimum(PAY, 2.0)) > 0.05
    assert apart(trained(replace(settings(), kl_coef=2.0)), expected) < 0.01


def test_without_a_penalty_it_takes_the_best_answer():
    reached = trained(replace(settings(whiten_scores=False), kl_coef=0.0), 80)
    assert reached[PAY.argmax()] > 0.9
