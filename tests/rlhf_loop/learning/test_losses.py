import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from rlhf_loop.advantages import kl_k3, masked_mean, shape_rewards
from rlhf_loop.learning.likelihood import entropies, spread_out
from rlhf_loop.learning.losses import policy_loss, value_loss
from rlhf_loop.policy import exact_kl

RATIOS = torch.tensor([0.5, 0.79, 0.9, 1.0, 1.1, 1.3, 2.0])


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        (1.0, [-0.5, -0.79, -0.9, -1.0, -1.1, -1.2, -1.2]),
        (-1.0, [0.8, 0.8, 0.9, 1.0, 1.1, 1.3, 2.0]),
    ],
)
def test_the_clipped_loss_is_the_hand_worked_one(advantage, expected):
    mask = torch.ones(1, 1, dtype=torch.bool)
    old = torch.tensor([[-1.3]])
    found = [
        policy_loss(old + ratio.log(), old, torch.full((1, 1), advantage), mask, 0.2).item()
        for ratio in RATIOS
    ]
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_value_loss_is_the_hand_worked_one():
    rows = (torch.tensor([[value]]) for value in (0.9, 0.5, 1.0))
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert value_loss(*rows, mask, 0.2).item() == pytest.approx(0.045)


def test_a_clipped_ratio_has_no_gradient_where_the_advantage_agrees():
    mask = torch.ones(1, 4, dtype=torch.bool)
    logprobs = torch.tensor([[0.5, 0.5, -0.5, -0.5]], requires_grad=True)  # ratios 1.65 and 0.61
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    policy_loss(logprobs, torch.zeros(1, 4), advantages, mask, 0.2).backward()
    assert (logprobs.grad != 0).tolist() == [[False, True, True, False]]


def test_at_ratio_one_the_gradient_is_that_of_reinforce():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages = torch.tensor([[0.7, -0.4]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    policy_loss(logprobs, logprobs.detach(), advantages, mask, 0.2).backward()
    torch.testing.assert_close(logprobs.grad, -advantages / 2)


def test_pads_have_no_gradient_and_do_not_count():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    rows = torch.randn(4, 2, 3)
    rows[1:, ~mask] = float("nan")
    rows[0, ~mask] = 1e4
    now = rows[0].clone().requires_grad_()
    loss = policy_loss(now, rows[1], rows[2].nan_to_num(5.0), mask, 0.2)
    loss = loss + value_loss(now, rows[1].nan_to_num(3.0), rows[2].nan_to_num(5.0), mask, 0.2)
    loss.backward()
    assert torch.isfinite(loss)
    assert now.grad[~mask].tolist() == [0.0, 0.0, 0.0]
    assert bool((now.grad[mask] != 0).any())


@pytest.mark.parametrize("loss", [policy_loss, value_loss])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_parts_of_a_minibatch_add_up_to_it(loss, cut):
    torch.manual_seed(1)
    mask = torch.arange(7) < torch.tensor([7, 1, 4, 2, 6, 3])[:, None]
    rows = torch.randn(3, 6, 7)
    whole = loss(*rows, mask, 0.2)
    parts = [
        loss(*rows[:, start : start + cut], mask[start : start + cut], 0.2)
        * (mask[start : start + cut].sum() / mask.sum())
        for start in range(0, 6, cut)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_mask_that_is_true_nowhere_gives_zero():
    assert masked_mean(torch.full((2, 2), float("nan")), torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_the_exact_divergence_is_the_hand_worked_one():
    policy, ref = torch.tensor([[[0.5, 0.3, 0.2]]]).log(), torch.tensor([[[0.4, 0.4, 0.2]]]).log()
    assert exact_kl(policy, ref).item() == pytest.approx(0.025267, abs=1e-5)
    assert exact_kl(policy, policy).item() == 0.0


@given(st.integers(0, 2**31), st.floats(0.01, 1.0))
def test_both_losses_agree_with_loops(seed, cliprange):
    """A second derivation: float64, one token after the other, as the equations read."""
    numbers = np.random.default_rng(seed)
    mask = numbers.random((4, 5)) < 0.7
    now, old, target = numbers.normal(size=(3, 4, 5))
    policy = value = 0.0
    for place in zip(*np.nonzero(mask), strict=True):
        ratio, advantage = np.exp(now[place] - old[place]), target[place]
        clipped = min(max(ratio, 1 - cliprange), 1 + cliprange)
        policy -= min(ratio * advantage, clipped * advantage)
        near = min(max(now[place], old[place] - cliprange), old[place] + cliprange)
        value += 0.5 * max((now[place] - target[place]) ** 2, (near - target[place]) ** 2)
    count = max(mask.sum(), 1)
    rows = [torch.from_numpy(field) for field in (now, old, target, mask)]
    assert policy_loss(*rows, cliprange).item() == pytest.approx(policy / count, abs=1e-12)
    assert value_loss(*rows, cliprange).item() == pytest.approx(value / count, abs=1e-12)


def test_log_probabilities_and_entropies_agree_with_scipy():
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0, 3] = float("-inf")  # a token that cannot be drawn
    tokens = torch.arange(7)
    logprobs, spread = spread_out(logits, tokens)
    expected, shares = log_softmax(logits.numpy(), axis=-1), softmax(logits.numpy(), axis=-1)
    np.testing.assert_allclose(logprobs.numpy(), expected[np.arange(7), np.arange(7)], atol=1e-12)
    terms = np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0)
    np.testing.assert_allclose(entropies(spread).numpy(), -terms.sum(axis=-1), atol=1e-12)


def test_ppo_finds_the_better_arm_of_a_bandit():
    """The losses alone, on three arms: the policy moves to the arm that pays."""
    torch.manual_seed(0)
    logits = torch.zeros(3, requires_grad=True)
    pay = torch.tensor([0.0, 1.0, 0.2])
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(40):
        arms = torch.multinomial(logits.detach().softmax(-1), 64, replacement=True)
        old = logits.detach().log_softmax(-1)[arms][:, None]
        advantages = (pay[arms] - pay[arms].mean())[:, None]
        now = logits.log_softmax(-1)[arms][:, None]
        optimizer.zero_grad()
        policy_loss(now, old, advantages, torch.ones(64, 1, dtype=torch.bool), 0.2).backward()
        optimizer.step()
    assert logits.softmax(-1)[1] > 0.9


# Five tokens as often as the policy draws them: a mean over these rows is the expectation.
TENTHS = torch.tensor([1, 2, 3, 2, 2])
DRAWN = torch.arange(5).repeat_interleave(TENTHS)
REFERENCE = torch.tensor([0.3, 0.1, 0.2, 0.25, 0.15], dtype=torch.float64).log()


def divergence(logits):
    logprobs = logits.log_softmax(-1)
    return (logprobs.exp() * (logprobs - REFERENCE)).sum()


def penalty_alone(logits, kl_coef):
    """The policy loss where the divergence from the reference is all that is rewarded."""
    mask = torch.ones(10, 1, dtype=torch.bool)
    logprobs = logits.log_softmax(-1)[DRAWN][:, None]
    old = logprobs.detach()
    nothing = torch.zeros(10, dtype=torch.float64)
    rewards = shape_rewards(nothing, old, REFERENCE[DRAWN][:, None], mask, kl_coef)
    return policy_loss(logprobs, old, rewards, mask, 0.2)


def test_the_penalty_s_gradient_is_that_of_the_divergence():
    policy = (TENTHS.double() / 10).log()
    found, exact = (policy.clone().requires_grad_() for _ in range(2))
    penalty_alone(found, 0.7).backward()
    (0.7 * divergence(exact)).backward()
    torch.testing.assert_close(found.grad, exact.grad)


def test_a_step_on_the_penalty_alone_lowers_the_divergence():
    logits = (TENTHS.double() / 10).log().requires_grad_()
    before = divergence(logits)
    penalty_alone(logits, 1.0).backward()
    with torch.no_grad():
        logits -= 0.1 * logits.grad
    assert divergence(logits) < before - 1e-4


def test_both_estimates_meet_the_divergence_in_a_sample():
    """A million draws: within three standard errors."""
    policy = (TENTHS.double() / 10).log()
    drawn = torch.multinomial(policy.exp(), 10**6, True, generator=torch.Generator().manual_seed(0))
    log_ratio = (policy - REFERENCE)[drawn]
    for estimate in (log_ratio, kl_k3(log_ratio)):
        error = 3 * estimate.std() / 10**3
        assert (estimate.mean() - divergence(policy)).abs() < error
