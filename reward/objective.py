"""What one step of training minimises, and each minibatch's share of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from reward.config import TrainConfig
from reward.data import PairRows
from reward.loss import MARGINS, centring_loss, ranking_loss, safety_auxiliary_loss, tie_loss
from reward.preferences import Criterion, PreferencePair

Number = TypeVar("Number", float, Tensor)


class Shares(NamedTuple):
    """A minibatch's share of each loss of the step, scalars (); they add up over its minibatches,
    so the gradient is that of the one big batch."""

    ranking: Tensor
    auxiliary: Tensor
    centring: Tensor


class Objective:
    """The losses over the pairs of one step, as ``config`` wants them.

    Raises ValueError where reliability weights leave no pair that counts.
    """

    def __init__(self, rows: Sequence[PairRows], config: TrainConfig) -> None:
        self.config = config
        self._count = len(rows)
        self._weight = sum(map(self._weight_of, rows))
        self._known = _known(rows) or 1
        if not self._weight:
            raise ValueError(f"all {self._count} pairs of a step have the reliability weight 0")

    def shares(self, chosen: Tensor, rejected: Tensor, rows: Sequence[PairRows]) -> Shares:
        """The shares of a minibatch with the raw scores ``chosen`` and ``rejected`` (B,)."""
        return Shares(
            self._ranking(chosen, rejected, rows),
            _auxiliary(chosen, rejected, rows) * (_known(rows) / self._known),
            centring_loss(chosen, rejected) * (len(rows) / self._count),
        )

    def total(self, ranking: Number, auxiliary: Number, centring: Number) -> Number:
        """The loss that these make together."""
        return ranking + auxiliary_weight(self.config) * auxiliary + self.config.centring * centring

    def _ranking(self, chosen: Tensor, rejected: Tensor, rows: Sequence[PairRows]) -> Tensor:
        """Decided pairs and ties alike count by their weights; one of weight 0 is not looked at."""
        weights = torch.tensor([self._weight_of(row) for row in rows], device=chosen.device)  # (B,)
        counted = [i for i, row in enumerate(rows) if self._weight_of(row)]
        share = 0 * chosen.sum()
        if decided := [i for i in counted if not rows[i].is_tie]:
            margins = [self._margin(rows[i].pair) for i in decided]
            targets = [self._target(rows[i].pair) for i in decided]
            margin, target = (torch.tensor(n, device=chosen.device) for n in (margins, targets))
            weight = weights[decided]
            loss = ranking_loss(chosen[decided], rejected[decided], margin, weight, target)
            share = share + loss * weight.sum()
        if tied := [i for i in counted if rows[i].is_tie]:
            weight = weights[tied]
            loss = tie_loss(chosen[tied], rejected[tied], self.config.tie_threshold, weight)
            share = share + loss * weight.sum()
        return share / self._weight

    def _margin(self, pair: PreferencePair) -> float:
        return MARGINS[self.config.margin][pair.strength] + self.config.tie_threshold

    def _target(self, pair: PreferencePair) -> float:
        """The probability that the chosen response is the better one."""
        sure = pair.share if self.config.soft_labels else 1.0
        smoothing = self.config.label_smoothing
        return sure * (1 - smoothing) + (1 - sure) * smoothing

    def _weight_of(self, row: PairRows) -> float:
        """How much a pair counts; one without verdicts is as good as any."""
        if not self.config.reliability_weights:
            return 1.0
        weights = [verdict.weight for verdict in row.pair.verdicts] or [1.0]
        return sum(weights) / len(weights)


def auxiliary_weight(config: TrainConfig) -> float:
    """The helpfulness model has no auxiliary loss (appendix A.3.3)."""
    return config.auxiliary_weight if config.criterion == Criterion.SAFETY else 0.0


def _known(rows: Sequence[PairRows]) -> int:
    """How many pairs have a safety label."""
    return sum(row.pair.safety is not None for row in rows)


def _auxiliary(chosen: Tensor, rejected: Tensor, rows: Sequence[PairRows]) -> Tensor:
    labels = [row.pair.safety for row in rows]
    chosen_safe = [label is not None and label.chosen_is_safe for label in labels]
    rejected_safe = [label is not None and label.rejected_is_safe for label in labels]
    known = [label is not None for label in labels]
    flags = (torch.tensor(f, device=chosen.device) for f in (chosen_safe, rejected_safe, known))
    return safety_auxiliary_loss(chosen, rejected, *flags)
