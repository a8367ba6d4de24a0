"""The list of stages: its commands say exactly what the stage's own settings say."""

import subprocess
import sys
from pathlib import Path

import pytest

from reward.settings import from_mapping, parse, to_flags, to_mapping
from rlhf_loop.config import EvaluateConfig, PPOConfig, RejectionConfig, RoundConfig
from rlhf_loop.round import STAGES, stage_command

CLASSES = {"rejection": RejectionConfig, "ppo": PPOConfig, "evaluate": EvaluateConfig}


def a_round(**changes) -> RoundConfig:
    paths = ("prompts", "policy", "helpfulness", "safety", "out")
    return RoundConfig(**{name: Path(name) for name in paths}, **changes)


def test_there_are_three_stages():
    assert STAGES == ("rejection", "ppo", "evaluate")


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_parses_back_into_the_stage_s_settings(stage):
    overrides = {
        "rejection": {"samples": 7, "earlier": ["a b.jsonl", "c.jsonl"], "packing": True},
        "ppo": {"batch": 64, "minibatch": 16, "learning_rate": 3e-4, "truncated": "mask"},
        "evaluate": {"split": "validation"},
    }
    config = a_round(seed=5, max_new_tokens=48, threshold=0.2, **overrides)
    command = stage_command(stage, config, Path("runs/x"), Path("start"))
    assert command[:3] == [sys.executable, "-m", f"rlhf_loop.{stage}"]
    found = to_mapping(parse(CLASSES[stage], "test", command[3:]))
    expected = {"policy": "start", "out": "runs/x", "prompts": "prompts", "seed": 5}
    expected |= {"max_new_tokens": 48, "threshold": 0.2, **overrides[stage]}
    assert {name: found[name] for name in expected} == expected
    if stage == "evaluate":
        assert found["against"] == "policy"


def test_a_round_s_settings_survive_flags_and_file():
    config = a_round(ppo={"batch": 64, "minibatch": 16, "whiten_rewards": True})
    assert parse(RoundConfig, "test", to_flags(to_mapping(config))) == config
    assert from_mapping(RoundConfig, to_mapping(config)) == config


def test_a_stage_that_is_none_is_refused():
    with pytest.raises(ValueError, match="allowed are rejection, ppo, evaluate"):
        stage_command("release", a_round(), Path("x"), Path("y"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ppo": {"kl": 1}}, "unknown setting 'kl'"),
        ({"ppo": {"batch": 10, "minibatch": 4}}, "allowed are divisors of batch 10"),
        ({"rejection": {"samples": 0}}, "samples is 0, allowed is 1 or more"),
        ({"evaluate": {"top_p": 0}}, "top_p is 0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_a_round_is_refused_before_it_starts(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        a_round(**changes)


def test_the_list_of_stages_does_not_load_torch():
    check = "import sys, rlhf_loop.round, rlhf_loop.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
