"""The losses of a step, put together from its minibatches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reward.config import TrainConfig
from reward.data import PairRows
from reward.objective import Objective
from reward.preferences import Criterion, Verdict
from tests.reward.pairs import pairs

CONFIG = TrainConfig(
    pairs=Path(), model=Path(), out=Path(), criterion=Criterion.SAFETY, margin="small",
    tie_threshold=0.4, reliability_weights=True, centring=0.1,
)  # fmt: skip


def weighed(*weights: float) -> list[PairRows]:
    """Safety pairs, every third a tie, whose one annotator has this weight."""
    some = pairs(len(weights), "safety")
    return [
        PairRows(replace(pair, verdicts=(Verdict("x", "a", weight=weight),)), [1], [2], not n % 3)
        for n, (pair, weight) in enumerate(zip(some, weights, strict=True))
    ]


def loss(rows: list[PairRows], *sizes: int) -> float:
    """Of rows that are cut into minibatches of these sizes."""
    objective = Objective(rows, CONFIG)
    chosen, rejected = (torch.linspace(start, 2, len(rows)).double() for start in (-1, 0.5))
    parts = zip(chosen.split(sizes), rejected.split(sizes), strict=True)
    found, start = 0.0, 0
    for some_chosen, some_rejected in parts:
        end = start + len(some_chosen)
        shares = objective.shares(some_chosen, some_rejected, rows[start:end])
        found += objective.total(*shares).item()
        start = end
    return found


def test_it_works():
    rows = weighed(1, 0.5, 2, 1, 1, 0.25, 3)
    whole = loss(rows, 7)
    for sizes in ((1,) * 7, (3, 4), (6, 1)):
        assert loss(rows, *sizes) == pytest.approx(whole, abs=1e-12)
    assert loss(weighed(1, 0.5, 2, 1, 1, 0.25, 30), 7) != pytest.approx(whole, abs=1e-3)


def test_a_minibatch_of_unreliable_pairs_alone_counts_nothing():
    """0 / 0 is no share."""
    assert loss(weighed(0, 0, 1, 2), 1, 1, 1, 1) == pytest.approx(loss(weighed(0, 0, 1, 2), 4))


def test_a_step_without_a_pair_that_counts_is_refused():
    with pytest.raises(ValueError, match="all 3 pairs of a step have the reliability weight 0"):
        Objective(weighed(0, 0, 0), CONFIG)
