"""The table of ablations: what is finished, beside the same seed's run with everything."""

from __future__ import annotations

import pytest

from demo.ablations import experiments, table
from demo.rounds import INGREDIENTS, Experiment, reward_settings, round_settings, samplers
from tests.demo.test_rounds import seed_folder


def test_it_works(tmp_path):
    seed_folder(tmp_path / "everything-0", [0.0, 0.1, 0.2, 0.3])
    seed_folder(tmp_path / "kl-0", [0.0, 0.1, 0.1, 0.1])
    seed_folder(tmp_path / "pool-0", [0.0, 0.1])  # not finished
    lines = table(tmp_path, seeds=2, rounds=3).splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["everything", "without kl"]
    assert "helpfulness 0.4" in lines[2]
    assert "(-0.200, -0.200 to -0.200)" in lines[2]


def test_every_ingredient_is_left_out_once_a_seed(tmp_path):
    found = list(experiments(tmp_path, seeds=2, rounds=3, threads=1))
    assert len(found) == len({each.out for each in found}) == 2 * (1 + len(INGREDIENTS))
    assert [each.without for each in found[: 1 + len(INGREDIENTS)]] == [None, *INGREDIENTS]


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_an_ingredient_left_out_changes_what_is_run_and_nothing_else(tmp_path, ingredient):
    def settings(without: str | None) -> dict[str, object]:
        experiment = Experiment(out=tmp_path, seed=0, without=without)
        versions = [tmp_path / name for name in ("a", "b", "v1")]
        turn = round_settings(experiment, 2, base=tmp_path / "b")
        return {
            **reward_settings(experiment),
            **{f"rejection {name}": value for name, value in turn.pop("rejection").items()},
            **{f"ppo {name}": value for name, value in turn.pop("ppo").items()},
            **turn,
            "samplers": samplers(experiment, versions),
        }

    whole, less = settings(None), settings(ingredient)
    assert len([name for name in less if less[name] != whole.get(name)]) == 1
