"""Accuracy against the number of comparisons: parts, fit, and real small trainings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reward import scaling as scaling_module
from reward.config import ScalingConfig
from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from reward.scaling import growing, scaling, summary
from tests.reward.pairs import pair, pairs
from tests.tiny_models import tiny_chat_model


@pytest.fixture
def config(tmp_path) -> ScalingConfig:
    weeks = [replace(p, batch=f"Week {i // 8}") for i, p in enumerate(pairs(32))]
    write_pairs(tmp_path / "pairs.jsonl", weeks)
    write_pairs(tmp_path / "holdout.jsonl", pairs(20, first=100))
    return ScalingConfig(
        pairs=tmp_path / "pairs.jsonl", holdout=tmp_path / "holdout.jsonl",
        models=(tiny_chat_model(tmp_path / "tiny"),), out=tmp_path / "run",
        criterion="helpfulness", resamples=200,
        training={"learning_rate": 3e-3, "pairs_per_step": 8, "device": "cpu"},
    )  # fmt: skip


def test_it_works(config):
    result = scaling(config)
    (model,) = result["models"]
    assert [point["pairs"] for point in model["points"]] == [8, 16, 24, 32]
    assert [point["through"] for point in model["points"]] == [f"Week {i}" for i in range(4)]
    assert {point["count"] for point in model["points"]} == {20}
    assert model["next"]["pairs"] == 8
    assert model["fit"]["low"] <= model["fit"]["per_doubling"] <= model["fit"]["high"]
    assert model["parameters"] > 10_000
    assert not [*config.out.glob("runs/*/model")]
    assert "through Week 3: 32 pairs" in summary(result)
    steps = [(line["step"], line["total"]) for line in RunFolder(config.out).metrics()]
    assert steps == [(number, 4) for number in range(5)]


def test_it_goes_on_where_it_stopped(config, monkeypatch):
    real, trained = scaling_module.train, []

    def stumble(settings):
        if len(trained) == 2:
            trained.append(None)
            raise KeyboardInterrupt
        before = RunFolder(settings.out).result()
        if before is None:
            trained.append(settings.out.name)
        return real(settings)

    monkeypatch.setattr(scaling_module, "train", stumble)
    with pytest.raises(KeyboardInterrupt):
        scaling(config)
    result = scaling(config)
    assert trained == ["1-1-0", "1-2-0", None, "1-3-0", "1-4-0"]
    monkeypatch.undo()
    again = scaling(replace(config, out=config.out.with_name("again")))
    assert again == result


def test_two_seeds_are_averaged(config):
    (model,) = scaling(replace(config, seeds=(0, 1), shares=(0.5,)))["models"]
    (point,) = model["points"]
    assert point["accuracy"] == pytest.approx(np.mean(point["by_seed"]))
    assert (point["count"], model["fit"]) == (20, None)


def test_shares_lie_within_each_other(config):
    some = [pair(i, root=str(i // 2)) for i in range(40)]
    parts = growing(some, replace(config, shares=(1.0, 0.25, 0.5)))
    assert [(part.through, len(part.pairs)) for part in parts] == [
        ("25%", 10), ("50%", 20), ("100%", 40)
    ]  # fmt: skip
    ids = [{p.id for p in part.pairs} for part in parts]
    assert ids[0] < ids[1] < ids[2]


def test_one_batch_is_refused(config):
    with pytest.raises(ValueError, match="has 1 batches of helpfulness, allowed are two or more"):
        growing([pair(0), pair(1, "safety")], config)


def test_it_grows_by_batches_of_its_own_criterion(config):
    """The other criterion's batches, which the recipe mixes in, come along as they came in time."""
    order = ["S 1", "H 1", "S 2", "H 2", "S 3", "H 3", "S 4"]
    criteria = {"S": "safety", "H": "helpfulness"}
    some = [pair(n, criteria[name[0]], batch=name) for n, name in enumerate(order)]
    parts = growing(some, config)
    assert [(part.through, [p.batch for p in part.pairs]) for part in parts] == [
        ("H 1", order[:3]), ("H 2", order[:5]), ("H 3", order)
    ]  # fmt: skip
    assert [part.through for part in growing(some, replace(config, criterion="safety"))] == [
        "S 1", "S 2", "S 3", "S 4"
    ]  # fmt: skip
    named = replace(config, batches=("H 3", "H 2", "H 1", "S 1", "S 2", "S 3", "S 4"))
    assert [len(part.pairs) for part in growing(some, named)] == [1, 2, 7]


def test_a_wrong_training_setting_is_refused(config):
    with pytest.raises(ValueError, match="unknown setting 'epoch'"):
        scaling(replace(config, training={"epoch": 2}))
    with pytest.raises(ValueError, match="training sets seed, which is set for each point already"):
        scaling(replace(config, training={"seed": 2}))
    assert not config.out.exists()
