"""Rounds by files alone: a killed run goes on, and the report reads what the gold scorer said."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from demo import world
from demo.rounds import Experiment, judged, run
from demo.rounds_report import figure, report, slope, table
from reward.lines import write_records
from reward.preferences import Criterion, SafetyLabel, read_pairs


def gold_folder(folder: Path, shift: float) -> None:
    """A version's gold scores: 40 prompts of each sort around a mean, nothing ever refused."""
    folder.mkdir(parents=True)
    numbers = random.Random(3)
    records = [
        {
            "id": f"{kind}-{i}",
            "kind": kind,
            "helpfulness": 0.3 + shift + numbers.uniform(-0.1, 0.1),
            "safety": 0.4 + shift + numbers.uniform(-0.1, 0.1),
            "refused": False,
        }
        for kind in ("unsafe", "factual", "borderline")
        for i in range(40)
    ]
    write_records(folder / "gold.jsonl", records)


def seed_folder(folder: Path, shifts: list[float], ppo: float = 0.0) -> Path:
    """The start and a round for each further shift, of which PPO brought ``ppo``."""
    gold_folder(folder / "start", shifts[0])
    for number, shift in enumerate(shifts[1:], start=1):
        gold_folder(folder / f"round-{number}" / "gold", shift)
        if ppo:
            gold_folder(folder / f"round-{number}" / "gold-rejection", shift - ppo)
        evaluation = folder / f"round-{number}" / "loop" / "evaluate"
        evaluation.mkdir(parents=True)
        judged = {"after": shift, "difference": shift - shifts[number - 1]}
        proxy = {"helpfulness": judged, "safety": judged}
        (evaluation / "result.json").write_text(
            json.dumps({"helpfulness_prompts": proxy, "safety_prompts": proxy})
        )
        (folder / f"round-{number}" / "done.json").write_text("{}")
    return folder


def test_it_works(tmp_path):
    """One small round with every real command; a second call finds everything done."""
    experiment = Experiment(
        out=tmp_path / "seed", seed=0, rounds=1, helpfulness_comparisons=24,
        safety_comparisons=24, train_prompts=16, samples=2,
        ppo_iterations=1, ppo_batch=8, test_prompts=60, max_new_tokens=24,
    )  # fmt: skip
    run(experiment)
    found = report([tmp_path / "seed"])
    assert [row["name"] for row in found["seeds"]["seed"]["versions"]] == ["start", "V1"]
    pairs = list(read_pairs(tmp_path / "seed" / "round-1" / "pairs.jsonl"))
    assert {pair.criterion for pair in pairs} == set(Criterion)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("gold.jsonl")}
    run(experiment)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("gold.jsonl")} == written
    assert "false refusals" in table(found)


def test_a_rise_and_a_fall_are_told_apart(tmp_path):
    rising = seed_folder(tmp_path / "rising", [0.0, 0.1, 0.2, 0.3])
    falling = seed_folder(tmp_path / "falling", [0.0, 0.2, 0.1, 0.3])
    found = report([rising, falling])["seeds"]
    for axis in ("helpfulness", "safety"):
        assert found["rising"][axis]["slope"] == pytest.approx(0.1)
        assert found["rising"][axis]["low"] > 0
        assert all(step["corrected_p"] > 0.05 for step in found["rising"][axis]["steps"])
        fallen = [s["version"] for s in found["falling"][axis]["steps"] if s["corrected_p"] < 0.05]
        assert fallen == ["V2"]
    assert found["rising"]["helpfulness"]["share_of_the_way"] == pytest.approx(0.3 / 0.7, rel=0.05)


def test_a_slope_over_three_versions_has_both_intervals():
    """By hand: the means are 0, 0.2, 0.1, the prompts' own slopes 0, 0.05 and 0.1."""
    found = slope([[0.0, 0.0, 0.0], [0.2, 0.2, 0.2], [0.0, 0.1, 0.2]])
    assert found["slope"] == pytest.approx(0.05)
    # Residuals ±0.05, ∓0.1 leave a standard error of 0.0866; t(0.975, 1) is 12.706.
    assert found["high"] == pytest.approx(0.05 + 12.7062 * 0.0866025, rel=1e-4)
    assert found["low"] == pytest.approx(0.05 - 12.7062 * 0.0866025, rel=1e-4)
    # A deviation of 0.05 among three prompts; t(0.975, 2) is 4.3027.
    assert found["prompts_low"] == pytest.approx(0.05 - 4.3027 * 0.05 / 3**0.5, rel=1e-4)
    assert found["prompts_high"] == pytest.approx(0.05 + 4.3027 * 0.05 / 3**0.5, rel=1e-4)


def test_the_slope_over_seeds_has_an_interval_of_its_own(tmp_path):
    # Slopes 0.1, 0.05 and 0.12: mean 0.09, deviation 0.036056; t(0.975, 2) is 4.3027.
    folders = [
        seed_folder(tmp_path / str(slope), [0.0, slope, 2 * slope]) for slope in (0.1, 0.05, 0.12)
    ]
    assert report(folders[:1])["over_seeds"] == {"helpfulness": {}, "safety": {}}
    found = report(folders)
    together = found["over_seeds"]["safety"]["slope"]
    assert together["mean"] == pytest.approx(0.09)
    assert together["low"] == pytest.approx(0.09 - 4.30265 * 0.0360555 / 3**0.5, abs=1e-6)
    assert "safety over the seeds: slope +0.0900 (+0.0004 to +0.1796)" in table(found)


def test_what_ppo_adds_has_an_interval_over_seeds(tmp_path):
    """The same arithmetic with 0.02, 0.01 and 0.03: mean 0.02, deviation 0.01."""
    folders = [seed_folder(tmp_path / str(ppo), [0.0, 0.1, 0.2], ppo) for ppo in (0.02, 0.01, 0.03)]
    found = report(folders)
    assert found["seeds"]["0.01"]["helpfulness"]["ppo_adds"] == pytest.approx(0.01)
    together = found["over_seeds"]["helpfulness"]["ppo_adds"]
    assert together["mean"] == pytest.approx(0.02)
    assert together["high"] == pytest.approx(0.02 + 4.30265 * 0.01 / 3**0.5, abs=1e-6)
    assert "safety over the seeds: a round's PPO adds +0.0200 (-0.0048 to +0.0448)" in table(found)


def test_the_figure_shows_every_version_and_what_each_round_promised(tmp_path):
    found = report([seed_folder(tmp_path / "seed", [0.0, 0.1, 0.3])])
    versions, *by_version, helpfulness, safety = figure(found).data
    assert list(versions.text) == ["start", "V1", "V2"]
    for trace in by_version:
        assert list(trace.x) == ["start", "V1", "V2"]
        assert [y - trace.y[0] for y in trace.y] == pytest.approx([0.0, 0.1, 0.3])
    for trace in (helpfulness, safety):
        assert list(trace.text) == ["seed V1", "seed V2"]
        assert list(trace.x) == pytest.approx([0.1, 0.2])
        assert list(trace.y) == pytest.approx([0.1, 0.2], abs=0.01)


def test_a_judgement_is_a_pair_in_the_order_of_the_choice():
    prompt = next(p for p in world.prompts("train") if p.is_safety)
    safe = {"text": "I cannot help with that. It is dangerous. Please ask a professional.",
            "model": "a", "temperature": 1.0, "top_p": 1.0, "seed": 1}  # fmt: skip
    agreeing = {**safe, "text": "Sure. I can do that for you.", "model": "b"}
    rng = random.Random(0)
    pairs = [
        judged("p", prompt, {0: safe, 1: agreeing}, Criterion.SAFETY, "round 1", rng)
        for _ in range(50)
    ]
    right = [pair for pair in pairs if pair and pair.chosen == safe["text"]]
    assert len(right) > 35
    assert all(pair.chosen_from and pair.chosen_from.checkpoint == "a" for pair in right)
    assert sum(pair.safety is SafetyLabel.CHOSEN_SAFE for pair in right) > len(right) / 2


def test_equal_answers_are_no_comparison():
    prompt = world.prompts("train")[0]
    line = {"text": "Yes.", "model": "a", "temperature": 1.0, "top_p": 1.0, "seed": 1}
    assert (
        judged("p", prompt, {0: line, 1: line}, Criterion.SAFETY, "round 1", random.Random(0))
        is None
    )
