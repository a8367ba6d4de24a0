"""Accuracy against the number of comparisons: parts, fit, and real small trainings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reward import scaling as scaling_module
from reward.config import ScalingConfig
from reward.measures.accuracy import ScoredPair
from reward.measures.resampling import Draws
from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from reward.scaling import Point, fitted, growing, scaling, summary
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
    assert RunFolder(config.out).metrics()[-1]["step"] == 4


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
    with pytest.raises(ValueError, match="has 1 batches, allowed are two or more"):
        growing([pair(0)], config)


def test_a_wrong_training_setting_is_refused(config):
    with pytest.raises(ValueError, match="unknown setting 'epoch'"):
        scaling(replace(config, training={"epoch": 2}))
    with pytest.raises(ValueError, match="training sets seed, which is set for each point already"):
        scaling(replace(config, training={"seed": 2}))
    assert not config.out.exists()


def points(accuracies, sizes, count=2000) -> list[Point]:
    found = []
    for accuracy, size in zip(accuracies, sizes, strict=True):
        rights = [float(i < accuracy * count) for i in range(count)]
        found.append(
            Point("x", size, [[ScoredPair(pair(i), r, 0.5) for i, r in enumerate(rights)]])
        )
    return found


def test_the_line_by_hand():
    """Five points more for every doubling, from 100 to 800; the next 800 are one doubling."""
    found = fitted(points([0.55, 0.6, 0.65, 0.7], [100, 200, 400, 800]), 800, Draws(200))
    assert found["fit"]["per_doubling"] == pytest.approx(0.05)
    assert found["fit"]["r_squared"] == pytest.approx(1)
    assert found["next"]["gain"] == pytest.approx(0.05)
    assert found["next"]["low"] < 0.05 < found["next"]["high"]


def test_the_next_step_is_the_last_one_again():
    found = fitted(points([0.55, 0.6, 0.65], [100, 200, 400]), 0, Draws(200))
    assert found["next"]["pairs"] == 200
    assert found["next"]["gain"] == pytest.approx(0.05 * np.log2(1.5))


def test_two_points_are_no_line():
    assert fitted(points([0.5, 0.6], [100, 200]), 0, Draws(200)) == {"fit": None, "next": None}
