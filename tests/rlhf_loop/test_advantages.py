"""Hand-worked numbers of the paper's equations, and each of them derived a second way."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit

from rlhf_loop.advantages import (
    combine_scores,
    estimate_advantages,
    group_relative,
    kl_k3,
    last_token,
    leave_one_out,
    shape_rewards,
    whiten,
)


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=1e-5)


# --- combined score ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_combined_score_is_the_paper_s(dtype):
    rows = [
        (0.95, 0.20, True, 2.944439),
        (0.21, 0.98, True, -1.324925),
        (0.21, 0.98, False, 3.891820),
        (0.14, 0.98, False, -1.815290),
        (0.15, 0.98, False, 3.891820),  # not under the threshold
        (0.90, 0.60, False, 0.405465),
        (0.05, 0.99, False, -2.944439),
        (0.60, 0.30, False, -0.847298),
    ]
    safety, helpfulness, tagged, expected = (list(column) for column in zip(*rows, strict=True))
    found = combine_scores(
        torch.logit(torch.tensor(helpfulness, dtype=dtype)),
        torch.logit(torch.tensor(safety, dtype=dtype)),
        torch.tensor(tagged),
    )
    close(found, torch.tensor(expected, dtype=dtype))


def test_a_score_just_under_the_threshold_decides():
    gate = torch.logit(torch.tensor([0.15]))
    below = torch.nextafter(gate, torch.tensor([-9.0]))
    tagged = torch.tensor([False])
    assert combine_scores(torch.ones(1), gate, tagged) == 1.0
    assert combine_scores(torch.ones(1), below, tagged) == below


def test_large_scores_keep_their_differences():
    helpfulness = torch.tensor([30.0, 31.0])  # equal to each other once through a sigmoid
    found = combine_scores(helpfulness, torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    assert found.tolist() == [30.0, 31.0]


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.73])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match="allowed is between 0 and 1"):
        combine_scores(torch.ones(1), torch.ones(1), torch.tensor([True]), threshold)


# --- whitening --------------------------------------------------------------------------------


def test_whitening_uses_the_population_variance():
    values = torch.tensor([0.728470, 0.663652, 0.485950, 0.201000])
    close(whiten(values), [1.021356, 0.704149, -0.165501, -1.560005])


def test_without_shift_the_mean_stays():
    values = torch.tensor([1.0, 2.0, 3.0])
    close(whiten(values, shift_mean=False), [2 - math.sqrt(1.5), 2.0, 2 + math.sqrt(1.5)])


@pytest.mark.parametrize("garbage", [1e9, math.nan, math.inf])
def test_what_is_masked_does_not_count(garbage):
    values = torch.tensor([[1.0, 2.0, garbage], [3.0, garbage, garbage]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = whiten(values, mask)
    close(found[mask], whiten(torch.tensor([1.0, 2.0, 3.0])))
    assert found[~mask].tolist() == [0.0, 0.0, 0.0]


def test_one_value_or_equal_values_become_zero():
    close(whiten(torch.tensor([7.0])), [0.0])
    close(whiten(torch.full((4,), 7.0)), [0.0] * 4)
    close(whiten(torch.tensor([7.0]), shift_mean=False), [7.0])


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="counts no value"):
        whiten(torch.ones(3), torch.zeros(3, dtype=torch.bool))


# --- rewards ----------------------------------------------------------------------------------

LOGPROBS = [-0.7, -1.2, -0.3, -2.1]
REF_LOGPROBS = [-0.9, -1.0, -0.8, -2.0]


def test_the_kl_penalty_stands_on_its_tokens_and_the_score_on_the_last():
    mask = torch.ones(1, 4, dtype=torch.bool)
    score = torch.tensor([0.954813])
    rows = torch.tensor([LOGPROBS]), torch.tensor([REF_LOGPROBS])
    found = shape_rewards(score, *rows, mask, kl_coef=0.01)
    close(found, [[-0.002, 0.002, -0.005, 0.955813]])
    close(found.sum(), 0.950813)
    close(shape_rewards(score, *rows, mask, kl_coef=0.005).sum(), 0.952813)


def test_the_k3_estimate_is_the_hand_worked_one():
    found = kl_k3(torch.tensor(LOGPROBS) - torch.tensor(REF_LOGPROBS))
    close(found, [0.018731, 0.021403, 0.106531, 0.005171])
    close(found.sum(), 0.151835)


def test_both_estimates_have_the_divergence_as_their_mean():
    policy = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    ref = torch.tensor([0.3, 0.1, 0.2, 0.25, 0.15], dtype=torch.float64)
    log_ratio = policy.log() - ref.log()
    exact = torch.nn.functional.kl_div(ref.log(), policy, reduction="sum")
    torch.testing.assert_close((policy * log_ratio).sum(), exact)
    torch.testing.assert_close((policy * kl_k3(log_ratio)).sum(), exact)
    assert bool((kl_k3(log_ratio) >= 0).all())


def test_the_score_lands_on_the_last_token_and_never_on_a_pad():
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] + [False] * 5])
    logprobs = torch.full((2, 6), math.nan)
    logprobs[mask] = 0.0
    found = shape_rewards(torch.tensor([1.0, 2.0]), logprobs, logprobs.clone(), mask, 0.1)
    assert found.tolist() == [[0, 0, 0, 1, 0, 0], [2, 0, 0, 0, 0, 0]]
    assert last_token(mask).tolist() == [3, 0]


def test_an_answer_without_tokens_is_refused():
    mask = torch.tensor([[True], [False]])
    with pytest.raises(ValueError, match="has no token"):
        shape_rewards(torch.ones(2), torch.zeros(2, 1), torch.zeros(2, 1), mask, 0.1)


def test_the_penalty_s_mean_is_the_exact_divergence():
    """E over the policy of log p - log q is KL(p‖q): summed exactly over all outcomes."""
    policy, ref = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    mask = torch.ones(3, 1, dtype=torch.bool)
    rewards = shape_rewards(torch.zeros(3), policy.log()[:, None], ref.log()[:, None], mask, 1.0)
    close(-(policy * rewards[:, 0]).sum(), 0.025267)
    same = shape_rewards(torch.zeros(3), ref.log()[:, None], ref.log()[:, None], mask, 1.0)
    assert same.abs().max() == 0


# --- advantages -------------------------------------------------------------------------------

REWARDS = [-0.002, 0.002, -0.005, 1.001]
VALUES = [0.2, 0.3, 0.5, 0.8]


@pytest.mark.parametrize(
    ("gamma", "lam", "advantages", "returns"),
    [
        (1, 0.95, [0.728470, 0.663652, 0.485950, 0.201000], [0.928470, 0.963652, 0.985950, 1.001]),
        (1, 1, [0.796, 0.698, 0.496, 0.201], [0.996, 0.998, 0.996, 1.001]),
        (1, 0, [0.098, 0.202, 0.295, 0.201], [0.298, 0.502, 0.795, 1.001]),
        (0.99, 0.95, [0.701355, 0.644716, 0.476040, 0.201], [0.901355, 0.944716, 0.976040, 1.001]),
    ],
)
def test_advantages_are_the_hand_worked_ones(gamma, lam, advantages, returns):
    mask = torch.ones(1, 4, dtype=torch.bool)
    found = estimate_advantages(torch.tensor([REWARDS]), torch.tensor([VALUES]), mask, gamma, lam)
    close(found[0], [advantages])
    close(found[1], [returns])


def test_pads_change_nothing():
    mask = torch.tensor([[True] * 4 + [False] * 2])
    rewards = torch.tensor([[*REWARDS, 50.0, math.nan]])
    values = torch.tensor([[*VALUES, 9.0, math.nan]])
    advantages, returns = estimate_advantages(rewards, values, mask, 1.0, 0.95)
    close(advantages, [[0.728470, 0.663652, 0.485950, 0.201, 0.0, 0.0]])
    close(returns, [[0.928470, 0.963652, 0.985950, 1.001, 0.0, 0.0]])


numbers = st.floats(-2, 2, width=32)
shares = st.floats(0, 1)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=7), shares, shares)
def test_advantages_agree_with_the_sum_over_n_step_estimates(steps, gamma, lam):
    """Schulman's definition: the weighted mean of the n-step estimates, by brute force."""
    rewards, values = ([float(v) for v in column] for column in zip(*steps, strict=True))
    mask = torch.ones(1, len(steps), dtype=torch.bool)
    found, _ = estimate_advantages(
        torch.tensor([rewards], dtype=torch.float64),
        torch.tensor([values], dtype=torch.float64),
        mask, gamma, lam,
    )  # fmt: skip
    expected = [_by_n_steps(rewards, values, t, gamma, lam) for t in range(len(steps))]
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))


def _by_n_steps(rewards, values, start, gamma, lam):
    def n_step(n):
        total = sum(gamma**i * rewards[start + i] for i in range(n))
        ahead = values[start + n] if start + n < len(values) else 0.0
        return total + gamma**n * ahead - values[start]

    longest = len(rewards) - start
    estimates = [n_step(n) for n in range(1, longest + 1)]
    weights = [(1 - lam) * lam**i for i in range(longest - 1)] + [lam ** (longest - 1)]
    return sum(w * e for w, e in zip(weights, estimates, strict=True))


def test_with_gamma_and_lambda_one_returns_are_rewards_to_go():
    mask = torch.ones(1, 4, dtype=torch.bool)
    _, returns = estimate_advantages(torch.tensor([REWARDS]), torch.tensor([VALUES]), mask, 1, 1)
    close(returns[0], torch.tensor(REWARDS).flip(0).cumsum(0).flip(0))
    steps = [a - b for a, b in pairwise(returns[0].tolist())]
    assert steps == pytest.approx(REWARDS[:-1], abs=1e-6)


# --- among the answers to a prompt ----------------------------------------------------------------


def test_leaving_one_out_is_the_hand_worked_one():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    everything = torch.ones(2, 3, dtype=torch.bool)
    close(leave_one_out(rewards, everything), [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]])
    without_last = torch.tensor([[True, True, False], [True, False, False]])
    close(leave_one_out(rewards, without_last), [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def test_group_relative_advantages_are_the_hand_worked_ones():
    rewards = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    everything = torch.ones(2, 3, dtype=torch.bool)
    close(group_relative(rewards, everything), [[-math.sqrt(1.5), 0, math.sqrt(1.5)], [0, 0, 0]])
    without_last = torch.tensor([[True, True, False], [False, False, False]])
    close(group_relative(rewards, without_last), [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


# --- each a second time: loops over float64, as the definitions read ------------------------------

cases = st.integers(0, 2**31)


def drawn(seed):
    """Rewards and values (B, T), a mask of first so many tokens, and a mask of rows that count."""
    numbers = np.random.default_rng(seed)
    rows, tokens = numbers.integers(1, 6), numbers.integers(1, 8)
    mask = np.arange(tokens) < numbers.integers(1, tokens + 1, rows)[:, None]
    return numbers, numbers.normal(size=(rows, tokens)), numbers.normal(size=(rows, tokens)), mask


@given(cases, st.booleans(), st.floats(0, 1))
def test_rewards_agree_with_a_loop(seed, per_token, kl_coef):
    numbers, logprobs, ref_logprobs, mask = drawn(seed)
    scores = numbers.normal(size=len(mask))
    expected = np.zeros(mask.shape)
    for row, count in enumerate(mask.sum(axis=1)):
        for token in range(count):
            place = token if per_token else count - 1
            expected[row, place] -= kl_coef * (logprobs[row, token] - ref_logprobs[row, token])
        expected[row, count - 1] += scores[row]
    fields = map(torch.from_numpy, (scores, logprobs, ref_logprobs, mask))
    found = shape_rewards(*fields, kl_coef, per_token)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@given(cases, shares, shares)
def test_advantages_agree_with_the_recursion_of_each_row(seed, gamma, lam):
    _, rewards, values, mask = drawn(seed)
    found, returns = estimate_advantages(
        *map(torch.from_numpy, (rewards, values, mask)), gamma, lam
    )
    for row, count in enumerate(mask.sum(axis=1)):
        later = ahead = 0.0
        for token in reversed(range(count)):
            delta = rewards[row, token] + gamma * ahead - values[row, token]
            later, ahead = delta + gamma * lam * later, values[row, token]
            assert found[row, token].item() == pytest.approx(later, abs=1e-12)
            assert returns[row, token].item() == pytest.approx(later + ahead, abs=1e-12)
        assert found[row, count:].abs().sum() == returns[row, count:].abs().sum() == 0


@given(cases, st.booleans())
def test_whitening_agrees_with_numpy(seed, shift_mean):
    _, values, _, mask = drawn(seed)
    known = values[mask]
    expected = (known - known.mean()) / np.sqrt(known.var() + 1e-8)
    found = whiten(torch.from_numpy(values), torch.from_numpy(mask), shift_mean).numpy()
    back = 0.0 if shift_mean else known.mean()
    np.testing.assert_allclose(found[mask], expected + back, atol=1e-9)


@given(cases)
def test_the_combined_score_agrees_with_the_paper_s_probabilities(seed):
    """Through the sigmoid, the choice, and back, as the equations are printed."""
    numbers = np.random.default_rng(seed)
    safe, helpful = numbers.uniform(0.001, 0.999, (2, 40))
    tagged = numbers.random(40) < 0.3
    expected = logit(np.where(tagged | (safe < 0.15), safe, helpful))
    found = combine_scores(*map(torch.from_numpy, (logit(helpful), logit(safe), tagged)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@given(cases)
def test_advantages_among_answers_agree_with_loops(seed):
    numbers = np.random.default_rng(seed)
    rewards = numbers.normal(size=(numbers.integers(1, 4), numbers.integers(1, 6)))
    counted = numbers.random(rewards.shape) < 0.7
    inputs = torch.from_numpy(rewards), torch.from_numpy(counted)
    rloo, grpo = leave_one_out(*inputs), group_relative(*inputs)
    for prompt, row in enumerate(rewards):
        for answer in range(len(row)):
            group = [j for j in range(len(row)) if counted[prompt, j]]
            others = [row[j] for j in group if j != answer]
            if not counted[prompt, answer]:
                assert rloo[prompt, answer] == grpo[prompt, answer] == 0
                continue
            alone = row[answer] - np.mean(others) if others else 0.0
            among = row[answer] - np.mean(row[group])
            deviation = np.sqrt(np.var(row[group]) + 1e-8)
            assert rloo[prompt, answer].item() == pytest.approx(alone, abs=1e-12)
            assert grpo[prompt, answer].item() == pytest.approx(among / deviation, abs=1e-9)
