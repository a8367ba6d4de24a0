"""A whole round on tiny models, its stages in processes of their own."""

import json

import pytest

from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from reward.settings import parse, to_mapping
from rlhf_loop.config import EvaluateConfig, RejectionConfig, ReplayConfig, RoundConfig
from rlhf_loop.policy import load_chat_model
from rlhf_loop.prompts import write_prompts
from rlhf_loop.replay import replay
from rlhf_loop.round import StageFailed, main, run_round
from tests import forked
from tests.reward.pairs import pairs
from tests.rlhf_loop.conftest import make_prompt


def settings_of(prompts, chat_model, judges, out):
    return {
        "prompts": prompts, "policy": chat_model, **judges, "out": out,
        "max_new_tokens": 60, "stages": ("rejection", "ppo", "evaluate"),
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


def test_a_stage_s_log_says_what_it_printed(finished):
    said = RunFolder(finished["out"] / "rejection").log_tail()
    assert said.endswith("prompts answered and fine-tuned on")


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
    settings["prompts"] = tmp_path / "none.jsonl"  # nothing was made: it may be put right
    settings["prompts"].write_text("nor are these\n")
    with pytest.raises(StageFailed, match=r"none.jsonl"):
        run_round(RoundConfig(**settings))


def test_a_stage_that_has_begun_is_never_another_one(finished):
    """And the round's folder stays as it was."""
    written = (finished["out"] / "config.json").read_bytes()
    other = finished | {"ppo": finished["ppo"] | {"epochs": 2}}
    with pytest.raises(ValueError, match="ppo was started with epochs=1, not 2: use another --out"):
        run_round(RoundConfig(**other))
    assert (finished["out"] / "config.json").read_bytes() == written
    how = finished | {"ppo": finished["ppo"] | {"tokens_per_minibatch": 64}}
    assert run_round(RoundConfig(**how))["model"] == "ppo/model"


def test_what_has_not_begun_may_be_asked_otherwise(finished, monkeypatch):
    """With the stages before it as they are."""
    out = finished["out"]
    for name in ("result.json", "evaluate"):
        (out / name).rename(out.with_name(name))
    commands = []

    def noted(stage, command, folder):
        commands.append(command)
        raise StageFailed(stage)

    monkeypatch.setattr("rlhf_loop.round.finish_stage", noted)
    with pytest.raises(StageFailed, match="evaluate"):
        run_round(RoundConfig(**finished, evaluate={"shown": 3}))
    for name in ("result.json", "evaluate"):
        out.with_name(name).rename(out / name)
    assert parse(EvaluateConfig, "test", commands[0][3:]).shown == 3


def test_a_stage_behind_the_round_s_launcher(prompts, chat_model, judges, tmp_path):
    """Two processes share it."""
    dialogue = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]
    (tmp_path / "data.jsonl").write_text(2 * (json.dumps({"messages": dialogue}) + "\n"))
    sft = {"data": [str(tmp_path / "data.jsonl")], "epochs": 1, "device": "cpu"}
    settings = settings_of(prompts, chat_model, judges, tmp_path / "out") | {
        "stages": ("sft", "evaluate"), "sft": sft,
        "launcher": "torchrun --standalone --nproc-per-node 2",
    }  # fmt: skip
    evaluated = RunFolder(tmp_path / "out/evaluate")
    evaluated.path.mkdir(parents=True)
    evaluated.write_result({"count": 4})  # is not run again
    assert run_round(RoundConfig(**settings))["model"] == "sft/model"
    assert RunFolder(tmp_path / "out/sft").result()["ranks"] == 2


@pytest.fixture(scope="module")
def built(brief_model, judges, tmp_path_factory):
    """A round of all stages but PPO: demonstrations, a sweep, both builders of data, rejection
    sampling that learns from them, DPO, and how long instructions last. Its settings."""
    folder = tmp_path_factory.mktemp("built")
    write_prompts(folder / "prompts.jsonl", map(make_prompt, range(48)))
    dialogue = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]
    (folder / "data.jsonl").write_text(json.dumps({"messages": dialogue}) + "\n")
    anything = {"kind": "any", "instruction": "Say {value}.", "terse": "Say: {value}",
                "values": ["something"], "check": {"pattern": ""}}  # fmt: skip
    (folder / "constraints.json").write_text(json.dumps({"constraints": [anything]}))
    write_pairs(folder / "pairs.jsonl", pairs(4))
    data = [str(folder / "data.jsonl")]
    instructed = {"constraints": str(folder / "constraints.json")}
    settings = settings_of(folder / "prompts.jsonl", brief_model, judges, folder / "out")
    settings |= {
        "stages": ("sft", "temperature", "ghost_attention", "context_distillation", "rejection",
                   "dpo", "instruction_keeping", "evaluate"),
        "max_new_tokens": 24,
        "sft": {"data": data, "epochs": 1},
        "temperature": {"temperatures": [1.3, 1.6], "prompt_count": 2, "split": "train"},
        "ghost_attention": {**instructed, "dialogues": 12, "longest_turns": 2},
        "context_distillation": {"seed": 1},
        "rejection": {"samples": 4, "epochs": 1, "batch": 4, "sft_data": data},
        "dpo": {"pairs": [str(folder / "pairs.jsonl")]},
        "instruction_keeping": {**instructed, "turns": [2], "dialogues": 4, "resamples": 50},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_loop.round.finish_stage", forked.finish_stage)
        run_round(RoundConfig(**settings))
    return settings


def asked(settings, stage):
    return json.loads((settings["out"] / stage / "config.json").read_text())


def test_stages_that_the_settings_name(built):
    out = built["out"]
    assert RunFolder(out).result()["model"] == "dpo/model"
    policies = [asked(built, stage).get("policy") for stage in built["stages"][1:]]
    models = [*["sft/model"] * 4, "rejection/model", *["dpo/model"] * 2]
    assert asked(built, "sft")["model"] == str(built["policy"])
    assert policies == [str(out / model) for model in models]
    sweep = RunFolder(out / "temperature").result()
    assert asked(built, "rejection")["temperature"] == sweep["temperature"]
    assert sweep["pick_at"] == asked(built, "rejection")["samples"] == 4


def test_rejection_sampling_is_fine_tuned_on_what_the_builders_left(built):
    out = built["out"]
    files = [
        *asked(built, "sft")["data"],
        *(
            str(out / stage / name)
            for stage, name in (
                ("ghost_attention", "dialogues.jsonl"),
                ("context_distillation", "distilled.jsonl"),
            )
        ),
    ]
    assert asked(built, "rejection")["sft_data"] == files
    results = {s: RunFolder(out / s).result() for s in built["stages"]}
    dialogues, kept = (
        results["ghost_attention"]["dialogues"],
        results["context_distillation"]["kept"],
    )
    assert (dialogues > 0, kept > 0) == (True, True)
    tuned = results["rejection"]
    assert tuned["sft_answers"] == 1 + dialogues + kept
    assert tuned["fine_tuned_on"] == tuned["selected"] + tuned["sft_answers"]


def test_how_long_instructions_last_is_measured_before_and_after(built):
    found = asked(built, "instruction_keeping")
    assert found["against"] == str(built["policy"])
    change = RunFolder(built["out"] / "instruction_keeping").result()["turns"]["2"]["change"]
    assert (change["before"], change["after"]) == (1, 1)  # an empty pattern is found everywhere


def test_data_that_is_built_again_is_what_is_learnt_from_again(built, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_loop.replay.finish_stage", forked.finish_stage)
    stages = ("ghost_attention", "rejection")
    found = replay(ReplayConfig(run=built["out"], out=tmp_path / "again", stages=stages))
    assert found == {stage: [] for stage in stages}
    again = json.loads((tmp_path / "again/rejection/config.json").read_text())["sft_data"]
    first, *others = asked(built, "rejection")["sft_data"]
    assert again == [first, str(tmp_path / "again/ghost_attention/dialogues.jsonl"), others[1]]


def test_a_round_that_was_stopped_builds_its_data_once(built, monkeypatch):
    """The next stage is asked for what it would have been asked for at first."""
    for left in (built["out"], built["out"] / "rejection", built["out"] / "dpo"):
        (left / "result.json").unlink()
    commands = []

    def noted(stage, command, folder):
        commands.append(command)
        raise StageFailed(stage)

    monkeypatch.setattr("rlhf_loop.round.finish_stage", noted)
    with pytest.raises(StageFailed, match="rejection"):
        run_round(RoundConfig(**built))
    asked_again = parse(RejectionConfig, "test", commands[0][3:])
    assert to_mapping(asked_again) == asked(built, "rejection")
