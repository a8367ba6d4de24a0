"""Worked values of the margin ranking loss (Llama 2, equation 2) and the safety auxiliary loss
(appendix A.3.3, in its plain form)."""

from __future__ import annotations

import pytest
import torch

from reward.loss import MARGINS, centring_loss, ranking_loss, safety_auxiliary_loss, tie_loss
from reward.preferences import STRONGEST_FIRST

RANKING = [
    (1.2, -0.3, "none", (0.201413,) * 4, (-0.182426,) * 4),
    (1.2, -0.3, "small", (0.474077, 0.360885, 0.271098, 0.201413),
     (-0.377541, -0.302941, -0.237458, -0.182426)),
    (1.2, -0.3, "large", (1.701413, 0.974077, 0.474077, 0.201413),
     (-0.817574, -0.622459, -0.377541, -0.182426)),
    (0.4, 0.4, "small", (1.313262, 1.081037, 0.873639, 0.693147),
     (-0.731059, -0.660756, -0.582570, -0.5)),
    (0.4, 0.4, "large", (3.048587, 2.126928, 1.313262, 0.693147),
     (-0.952574, -0.880797, -0.731059, -0.5)),
    (-0.5, 0.2, "small", (1.867786, 1.593767, 1.337739, 1.103186),
     (-0.845535, -0.796841, -0.737562, -0.668188)),
    (-0.5, 0.2, "large", (3.724423, 2.765044, 1.867786, 1.103186),
     (-0.975873, -0.937027, -0.845535, -0.668188)),
]  # fmt: skip


@pytest.mark.parametrize(("chosen", "rejected", "margins", "losses", "gradients"), RANKING)
def test_the_ranking_loss_and_its_gradient(chosen, rejected, margins, losses, gradients):
    for strength, loss, gradient in zip(STRONGEST_FIRST, losses, gradients, strict=True):
        scores = [torch.tensor([value], requires_grad=True) for value in (chosen, rejected)]
        margin = torch.tensor([MARGINS[margins][strength]])
        found = ranking_loss(*scores, margin)
        found.backward()
        assert found.item() == pytest.approx(loss, abs=1e-6)
        assert scores[0].grad.item() == pytest.approx(gradient, abs=1e-6)
        assert scores[1].grad.item() == pytest.approx(-gradient, abs=1e-6)


@pytest.mark.parametrize(("margins", "mean"), [("none", 0.561764), ("small", 0.773687),
                                               ("large", 1.450707)])  # fmt: skip
def test_the_ranking_loss_is_the_mean_of_the_pairs(margins, mean):
    chosen = torch.tensor([2.0, 0.1, 1.0, -0.2])
    rejected = torch.tensor([0.5, 0.3, 0.7, -0.2])
    margin = torch.tensor([MARGINS[margins][strength] for strength in STRONGEST_FIRST])
    assert ranking_loss(chosen, rejected, margin).item() == pytest.approx(mean, abs=1e-6)
    shifted = ranking_loss(chosen + 5, rejected + 5, margin)
    assert shifted.item() == pytest.approx(mean, abs=1e-5)


def test_extreme_differences_stay_finite():
    zero = torch.zeros(1)
    assert ranking_loss(torch.tensor([1000.0]), zero, zero).item() == 0
    assert ranking_loss(torch.tensor([-1000.0]), zero, zero).item() == 1000
    assert ranking_loss(torch.tensor([1e4]), torch.tensor([-1e4]), zero).isfinite()


def test_unknown_strength_has_no_margin():
    assert [MARGINS[name][None] for name in ("none", "small", "large")] == [0, 0, 0]


def test_weighted_mean():
    chosen, rejected = torch.tensor([1.2, 0.4]), torch.tensor([-0.3, 0.4])
    found = ranking_loss(chosen, rejected, torch.zeros(2), torch.tensor([3.0, 1.0]))
    assert found.item() == pytest.approx((3 * 0.201413 + 0.693147) / 4, abs=1e-6)


CHOSEN, REJECTED = torch.tensor([1.5, 0.8, -0.4]), torch.tensor([-1.0, 0.3, -0.9])
SAFE = torch.tensor([True, True, False]), torch.tensor([False, True, False])


def test_the_auxiliary_loss():
    known = torch.tensor([True, True, True])
    found = safety_auxiliary_loss(CHOSEN, REJECTED, *SAFE, known)
    assert found.item() == pytest.approx(0.382383, abs=1e-6)
    for i, expected in enumerate((0.257337, 0.462728, 0.427085)):
        only = torch.arange(3) == i
        found = safety_auxiliary_loss(CHOSEN, REJECTED, *SAFE, only)
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_both_losses_together():
    margin = torch.tensor([MARGINS["small"][STRONGEST_FIRST[i]] for i in (0, 2, 1)])
    rank = ranking_loss(CHOSEN, REJECTED, margin)
    assert rank.item() == pytest.approx(0.531548, abs=1e-6)
    aux = safety_auxiliary_loss(CHOSEN, REJECTED, *SAFE, torch.ones(3, dtype=torch.bool))
    assert (rank + aux).item() == pytest.approx(0.913931, abs=1e-6)


def test_unknown_labels_have_no_auxiliary_loss_nor_gradient():
    chosen = CHOSEN.clone().requires_grad_()
    loss = safety_auxiliary_loss(chosen, REJECTED, *SAFE, torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert chosen.grad.abs().sum().item() == 0


def test_swapped_labels_flip_the_gradient():
    gradients = []
    for safe in (True, False):
        chosen = torch.zeros(1, requires_grad=True)
        flags = torch.tensor([safe]), torch.tensor([not safe])
        known = torch.tensor([True])
        safety_auxiliary_loss(chosen, torch.zeros(1), *flags, known).backward()
        gradients.append(chosen.grad.item())
    assert gradients[0] == -gradients[1] != 0


def test_a_target_is_the_cross_entropy_with_the_better_one():
    chosen, rejected = torch.tensor([1.2, -0.5, 1e4]), torch.tensor([-0.3, 0.2, -1e4])
    margin, target = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.9, 0.6, 0.8])
    found = ranking_loss(chosen[:2], rejected[:2], margin[:2], target=target[:2])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        (chosen - rejected - margin)[:2], target[:2]
    )
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    assert ranking_loss(chosen, rejected, margin, target=target).isfinite()
    sure = ranking_loss(chosen, rejected, margin, target=torch.ones(3))
    assert sure == ranking_loss(chosen, rejected, margin)


def test_a_soft_target_is_reached_and_not_passed():
    """Where the difference of scores has the odds of the target, nothing pulls."""
    scores = torch.tensor([torch.tensor(0.8).logit()], requires_grad=True)
    zero = torch.zeros(1)
    ranking_loss(scores, zero, zero, target=torch.tensor([0.8])).backward()
    assert scores.grad.item() == pytest.approx(0, abs=1e-7)


def test_centring_holds_the_sum_at_zero_and_leaves_the_difference():
    chosen, rejected = (torch.tensor([v], requires_grad=True) for v in (3.0, 1.0))
    loss = centring_loss(chosen, rejected)
    loss.backward()
    assert loss.item() == 16
    assert chosen.grad.item() == rejected.grad.item() == 8


@pytest.mark.parametrize("threshold", [0.01, 0.5, 3.0])
def test_win_loss_and_tie_are_everything_that_can_happen(threshold):
    """Rao and Kupper (1967): their three probabilities add up to 1, whatever the scores."""
    chosen = torch.tensor([-4.0, -0.3, 0.0, 0.2, 5.0], dtype=torch.float64)
    rejected, one = torch.zeros(5, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for index in range(5):
        pair = chosen[index : index + 1], rejected[index : index + 1]
        wins = ranking_loss(*pair, threshold * one), ranking_loss(*reversed(pair), threshold * one)
        losses = torch.stack([*wins, tie_loss(*pair, threshold, one)])
        assert torch.exp(-losses).sum().item() == pytest.approx(1, abs=1e-12)


def test_a_tie_pulls_scores_together_and_stays_finite():
    one = torch.ones(1)
    chosen = torch.tensor([2.0], requires_grad=True)
    tie_loss(chosen, torch.zeros(1), 0.5, one).backward()
    assert chosen.grad.item() > 0  # less is better
    assert tie_loss(torch.zeros(1), torch.zeros(1), 0.5, one) < tie_loss(one, -one, 0.5, one)
    assert tie_loss(torch.tensor([1e4]), torch.tensor([-1e4]), 1e-6, one).isfinite()
    assert tie_loss(one, one, 400.0, one).isfinite()
    uneven = tie_loss(torch.tensor([1.0, 9.0]), torch.zeros(2), 0.5, torch.tensor([1.0, 0.0]))
    assert uneven.item() == pytest.approx(tie_loss(one, torch.zeros(1), 0.5, one).item())
