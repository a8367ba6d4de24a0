"""The table of ablations: what is finished, beside the same seed's run with everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.ablations import experiments, table, take_what_is_common
from demo.rounds import INGREDIENTS, Experiment, reward_settings, round_settings, samplers
from reward.preferences import Criterion
from tests.demo.test_rounds import seed_folder


def test_it_works(tmp_path):
    seed_folder(tmp_path / "everything-0", [0.0, 0.1, 0.2, 0.3])
    seed_folder(tmp_path / "kl-0", [0.0, 0.1, 0.1, 0.1])
    seed_folder(tmp_path / "pool-0", [0.0, 0.1])  # not finished
    lines = table(tmp_path, seeds=(0, 1), rounds=3).splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["everything", "without kl"]
    assert "helpfulness 0.4" in lines[2]
    assert "(-0.200, -0.200 to -0.200)" in lines[2]


def test_the_change_has_an_interval_over_seeds_too(tmp_path):
    """-0.1 and -0.2: mean -0.15, deviation 0.0707; t(0.975, 1) is 12.706."""
    for seed, end in enumerate((0.2, 0.1)):
        seed_folder(tmp_path / f"everything-{seed}", [0.0, 0.1, 0.2, 0.3])
        seed_folder(tmp_path / f"kl-{seed}", [0.0, 0.1, 0.1, end])
    line = table(tmp_path, seeds=(0, 1), rounds=3).splitlines()[2]
    assert "(-0.150, " in line
    assert "; over seeds -0.785 to +0.485)" in line


def test_every_ingredient_is_left_out_once_a_seed(tmp_path):
    found = list(experiments(tmp_path, seeds=(0, 1), rounds=3, threads=1))
    assert len(found) == len({each.out for each in found}) == 2 * (1 + len(INGREDIENTS))
    assert [each.without for each in found[: 1 + len(INGREDIENTS)]] == [None, *INGREDIENTS]


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_an_ingredient_left_out_changes_what_is_run_and_nothing_else(tmp_path, ingredient):
    def settings(without: str | None) -> dict[str, object]:
        experiment = Experiment(out=tmp_path, seed=0, without=without)
        versions = [tmp_path / name for name in ("a", "b", "v1")]
        turn = round_settings(experiment, 2, base=tmp_path / "b")
        return {
            **{
                f"{criterion} {name}": value
                for criterion in Criterion
                for name, value in reward_settings(experiment, criterion).items()
            },
            **{f"rejection {name}": value for name, value in turn.pop("rejection").items()},
            **{f"ppo {name}": value for name, value in turn.pop("ppo").items()},
            **turn,
            "samplers": samplers(experiment, versions),
        }

    whole, less = settings(None), settings(ingredient)
    changed = {name for name in less if less[name] != whole.get(name)}
    found = {name.removeprefix("helpfulness ").removeprefix("safety ") for name in changed}
    assert len(found) == len(ingredient.split(" and "))


def first_round(folder: Path) -> Path:
    """What one round with everything leaves, each file with its own name in it."""
    files = ("helpfulness/pairs.jsonl", "safety/pairs.jsonl", "reward-helpfulness/result.json",
             "reward-safety/result.json", "loop/result.json", "gold/gold.jsonl", "done.json",
             "pairs.jsonl")  # fmt: skip
    for name in ("start/gold.jsonl", *(f"round-1/{name}" for name in files)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(("ingredient", "common"), [
    ("margin", {"helpfulness", "safety"}),
    ("auxiliary", {"helpfulness", "safety", "reward-helpfulness"}),
    ("kl", {"helpfulness", "safety", "reward-helpfulness", "reward-safety"}),
    ("pool", {"helpfulness", "safety", "reward-helpfulness", "reward-safety", "loop", "gold",
              "done.json", "pairs.jsonl"}),
])  # fmt: skip
def test_what_an_ingredient_has_no_part_in_is_taken_over(tmp_path, ingredient, common):
    everything = first_round(tmp_path / "everything-0")
    experiment = Experiment(out=tmp_path / "without", seed=0, without=ingredient)
    take_what_is_common(everything, experiment)
    assert {path.name for path in experiment.round(1).iterdir()} == common
    assert (experiment.out / "start" / "gold.jsonl").read_text() == "start/gold.jsonl"
    own = experiment.round(1) / "own"
    own.write_text("")
    take_what_is_common(everything, experiment)  # what was begun is left as it is
    assert own.exists()
