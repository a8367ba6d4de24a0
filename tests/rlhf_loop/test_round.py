"""A whole round on tiny models, its stages in processes of their own."""

import json

import pytest

from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from rlhf_loop.config import RoundConfig
from rlhf_loop.policy import load_chat_model
from rlhf_loop.round import StageFailed, main, run_round
from tests.reward.pairs import pairs


def settings_of(prompts, chat_model, judges, out):
    return {
        "prompts": prompts, "policy": chat_model, **judges, "out": out,
        "max_new_tokens": 60,
        "rejection": {"samples": 4, "temperature": 1.5, "epochs": 1, "batch": 4},
        "ppo": {"iterations": 2, "batch": 8, "minibatch": 4, "validate_every": 1,
                "temperature": 1.5},
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(prompts, chat_model, judges, tmp_path_factory):
    """A round that has run from the command line: its settings."""
    folder = tmp_path_factory.mktemp("round")
    settings = settings_of(prompts, chat_model, judges, folder / "out")
    file = folder / "round.json"
    file.write_text(json.dumps(settings, default=str))
    main(["--config", str(file)])
    return settings


def test_a_round_leaves_a_chat_model_and_its_evaluation(finished):
    run = RunFolder(finished["out"])
    result = run.result()
    assert [line["stage"] for line in run.metrics()] == ["rejection", "ppo", "evaluate"]
    model, _ = load_chat_model(run.path / result["model"], "cpu")
    assert model.generation_config.do_sample is True
    assert result["evaluation"]["all"]["count"] == 4


def test_each_stage_starts_from_the_one_before(finished):
    out = finished["out"]
    order = ("rejection", "ppo", "evaluate")
    policies = [json.loads((out / s / "config.json").read_text())["policy"] for s in order]
    expected = [finished["policy"], out / "rejection/model", out / "ppo/model"]
    assert policies == [str(path) for path in expected]
    against = json.loads((out / "evaluate/config.json").read_text())["against"]
    assert against == str(finished["policy"])


def test_a_stage_with_a_result_is_not_run_again(finished, monkeypatch):
    (finished["out"] / "result.json").unlink()
    monkeypatch.setattr("rlhf_loop.round.finish_stage", None)  # a call would be a TypeError
    assert run_round(RoundConfig(**finished))["model"] == "ppo/model"


def test_a_stage_that_fails_is_named_with_its_log(prompts, chat_model, judges, tmp_path):
    settings = settings_of(prompts, chat_model, judges, tmp_path / "out")
    settings["prompts"] = tmp_path / "no.jsonl"
    settings["prompts"].write_text("these are no prompts\n")
    with pytest.raises(StageFailed, match=r"stage rejection ended with status 1:(.|\n)*no.jsonl"):
        run_round(RoundConfig(**settings))
    assert RunFolder(settings["out"]).result() is None


def test_stages_that_the_settings_name(prompts, chat_model, judges, tmp_path):
    """Demonstrations, a sweep, rejection sampling at its pick, and DPO; no PPO."""
    out = tmp_path / "out"
    settings = settings_of(prompts, chat_model, judges, out)
    dialogue = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": dialogue}) + "\n")
    write_pairs(tmp_path / "pairs.jsonl", pairs(4))
    settings |= {
        "stages": ("sft", "temperature", "rejection", "dpo", "evaluate"),
        "sft": {"data": [str(tmp_path / "data.jsonl")], "epochs": 1},
        "temperature": {"temperatures": [1.3, 1.6], "prompt_count": 2, "split": "train"},
        "dpo": {"pairs": [str(tmp_path / "pairs.jsonl")]},
    }
    result = run_round(RoundConfig(**settings))
    assert result["model"] == "dpo/model"
    asked = {
        stage: json.loads((out / stage / "config.json").read_text()) for stage in settings["stages"]
    }
    started = [asked["sft"]["model"], *(asked[s]["policy"] for s in settings["stages"][1:])]
    models = [chat_model, out / "sft/model", out / "sft/model", out / "rejection/model",
              out / "dpo/model"]  # fmt: skip
    assert started == [str(path) for path in models]
    sweep = RunFolder(out / "temperature").result()
    assert asked["rejection"]["temperature"] == sweep["temperature"]
    assert sweep["pick_at"] == asked["rejection"]["samples"] == 4
