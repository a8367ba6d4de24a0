"""The list of stages: its commands say exactly what the stage's own settings say."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from reward.command import behind
from reward.settings import from_mapping, parse, to_flags, to_mapping
from rlhf_loop.config import RANKED_STAGES, STAGE_CONFIGS, RoundConfig
from rlhf_loop.round import STAGES, launcher_of, stage_command, stages_of, trained_next


def a_round(**changes) -> RoundConfig:
    paths = ("prompts", "policy", "helpfulness", "safety", "out")
    return RoundConfig(**{name: Path(name) for name in paths}, **changes)


def test_a_round_has_four_stages_unless_its_settings_name_others():
    assert STAGES == (
        "sft", "temperature", "ghost_attention", "context_distillation", "rejection", "dpo", "ppo",
        "instruction_keeping", "evaluate",
    )  # fmt: skip
    assert a_round().stages == stages_of({}) == ("temperature", "rejection", "ppo", "evaluate")
    assert stages_of({"stages": ["dpo", "evaluate"]}) == ("dpo", "evaluate")
    assert a_round(stages=("rejection", "evaluate")).stages == ("rejection", "evaluate")


def test_the_last_stage_that_trains_leaves_the_round_s_model():
    assert trained_next("rejection", {}) == "ppo"
    assert trained_next("ppo", {}) is None
    shorter = {"stages": ["sft", "temperature", "rejection", "evaluate"]}
    assert trained_next("sft", shorter) == "rejection"
    assert trained_next("rejection", shorter) is None


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_parses_back_into_the_stage_s_settings(stage):
    overrides = {
        "stages": STAGES,
        "sft": {"data": ["a.jsonl", "b.jsonl"], "answers": "all", "loss_mean": "answers"},
        "temperature": {"temperatures": [0.5, 1.5], "pick_at": 4, "split": "train"},
        "ghost_attention": {"dialogues": 9, "constraints": "own.json", "terse_share": 0.25},
        "context_distillation": {"preprompt_as": "user", "max_new_tokens": 30},
        "rejection": {"samples": 7, "earlier": ["a b.jsonl", "c.jsonl"], "packing": "across"},
        "dpo": {"pairs": ["pairs.jsonl"], "beta": 0.2, "criterion": "safety"},
        "ppo": {"batch": 64, "minibatch": 16, "learning_rate": 3e-4, "truncated": "mask"},
        "instruction_keeping": {"turns": [2, 3], "split": "validation"},
        "evaluate": {"split": "validation"},
    }
    config = a_round(seed=5, max_new_tokens=48, threshold=0.2, **overrides)
    command = stage_command(stage, config, Path("runs/x"), Path("start"))
    assert command[:3] == [sys.executable, "-m", f"rlhf_loop.{stage}"]
    found = to_mapping(parse(STAGE_CONFIGS[stage], "test", command[3:]))
    expected = {"out": "runs/x", "seed": 5, "model" if stage == "sft" else "policy": "start"}
    if stage not in ("sft", "dpo"):
        expected |= {"prompts": "prompts", "max_new_tokens": 48}
    if stage in ("temperature", "rejection", "ppo", "evaluate"):
        expected |= {"helpfulness": "helpfulness", "safety": "safety", "threshold": 0.2}
    if stage == "context_distillation":
        expected |= {"safety": "safety"}
    expected |= overrides[stage]
    assert {name: found[name] for name in expected} == expected
    if stage in ("instruction_keeping", "evaluate"):
        assert found["against"] == "policy"


def test_a_round_s_settings_survive_flags_and_file():
    config = a_round(ppo={"batch": 64, "minibatch": 16, "whiten_rewards": True})
    assert parse(RoundConfig, "test", to_flags(to_mapping(config))) == config
    assert from_mapping(RoundConfig, to_mapping(config)) == config


def test_rejection_sampling_draws_at_the_temperature_that_the_sweep_picked():
    command = stage_command(
        "rejection", a_round(), Path("x"), Path("y"), {"temperature": {"temperature": 1.3}}
    )
    assert parse(STAGE_CONFIGS["rejection"], "test", command[3:]).temperature == 1.3


@pytest.mark.parametrize(
    "own",
    [{}, {"samples": 7}, {"samples": 7, "top_p": 0.9, "max_new_tokens": 64, "threshold": 0.4}],
)
def test_a_sweep_draws_as_rejection_sampling_will(own):
    config = a_round(rejection=own, max_new_tokens=48, threshold=0.2)
    swept, drawn = (
        parse(STAGE_CONFIGS[stage], "test", stage_command(stage, config, Path("x"), Path("y"))[3:])
        for stage in ("temperature", "rejection")
    )
    names = ("samples", "top_p", "max_new_tokens", "threshold")
    assert [getattr(swept, n) for n in names] == [getattr(drawn, n) for n in names]
    assert {n: getattr(drawn, n) for n in own} == own


def test_a_sweep_s_own_settings_go_before_those_of_rejection_sampling():
    config = a_round(rejection={"top_p": 0.9}, temperature={"top_p": 0.8, "samples": 20})
    command = stage_command("temperature", config, Path("x"), Path("y"))
    swept = parse(STAGE_CONFIGS["temperature"], "test", command[3:])
    assert (swept.top_p, swept.samples) == (0.8, 20)


@pytest.mark.parametrize(
    "named", [{}, {"sft_data": None}, {"sft_data": ["own.jsonl"]}, {"sft_data": "own.jsonl"}]
)
def test_rejection_sampling_learns_from_what_was_built_beside_its_own_files(named):
    config = a_round(stages=("ghost_attention", "rejection", "evaluate"), rejection=named)
    built = [Path("g/dialogues.jsonl"), Path("c/distilled.jsonl")]
    command = stage_command("rejection", config, Path("x"), Path("y"), {}, built)
    found = parse(STAGE_CONFIGS["rejection"], "test", command[3:]).sft_data
    own = [Path("own.jsonl")] if named.get("sft_data") else []
    assert found == (*own, *built)


def test_fine_tuning_may_begin_at_a_base_model():
    config = a_round(
        stages=("sft", "rejection", "evaluate"), sft={"data": ["d"], "model": "base"},
        rejection={"start": "base", "sft_data": ["d"]},
    )  # fmt: skip
    found = parse(
        STAGE_CONFIGS["sft"], "test", stage_command("sft", config, Path("x"), Path("y"))[3:]
    )
    assert (found.model, found.out) == (Path("base"), Path("x"))


LEARNING = ("sft", "ghost_attention", "context_distillation", "rejection", "dpo", "ppo")


@pytest.mark.parametrize("stage", LEARNING)
def test_what_a_round_asks_in_the_end_is_known_to_all_that_learn(stage):
    """Its prompts, those that its evaluation asks further, and those it names as held out."""
    config = a_round(
        stages=(*LEARNING, "evaluate"), sft={"data": ["d"]}, dpo={"pairs": ["d"]},
        held_out=(Path("h"),), evaluate={"further_prompts": "xstest"},
    )  # fmt: skip
    words = stage_command(stage, config, Path("x"), Path("y"))[3:]
    found = parse(STAGE_CONFIGS[stage], "test", words)
    assert found.prompts == config.prompts
    assert found.held_out == (Path("h"), Path("xstest"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["prompts", "held_out"])
def test_no_stage_of_a_round_has_prompts_of_its_own(stage, name):
    """It would learn what another stage tests, or test what another one learns."""
    own = {"sft": {"data": ["d"]}, "dpo": {"pairs": ["d"]}}
    own[stage] = {**own.get(stage, {}), name: "others"}
    with pytest.raises(ValueError, match=f"{name} of {stage} is 'others', allowed is the round's"):
        a_round(stages=STAGES, **own)


def test_a_stage_that_is_none_is_refused():
    with pytest.raises(ValueError, match="allowed are sft, temperature, ghost_attention, con"):
        stage_command("release", a_round(), Path("x"), Path("y"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ppo": {"beta": 1}}, "unknown setting 'beta'"),
        ({"ppo": {"batch": 10, "minibatch": 4}}, "allowed are divisors of batch 10"),
        ({"rejection": {"samples": 0}}, "samples is 0, allowed is 1 or more"),
        ({"evaluate": {"top_p": 0}}, "top_p is 0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"stages": ("ppo", "rejection", "evaluate")}, "each once, in this order, evaluate among"),
        ({"stages": ("rejection", "rejection", "evaluate")}, "stages is rejection rejection eval"),
        ({"stages": ("rejection", "release", "evaluate")}, "stages is rejection release evaluate"),
        ({"stages": ("rejection", "ppo")}, "stages is rejection ppo, allowed are some of sft"),
        ({"stages": ()}, "stages is empty, allowed are some of sft temperature ghost_at"),
        ({"stages": ("evaluate",)}, "trains nothing: one of sft, rejection, dpo, ppo is needed"),
        ({"stages": ("temperature", "ppo", "evaluate")}, "temperature without rejection"),
        ({"rejection": {"temperature": 0.7}}, "names temperature 0.7, which the stage temperatu"),
        ({"stages": ("ghost_attention", "ppo", "evaluate")},
         "ghost_attention without rejection, which alone learns from what it builds"),
        ({"stages": ("sft", "context_distillation", "evaluate")},
         "context_distillation without rejection, which alone learns"),
        ({"stages": ("ghost_attention", "rejection", "evaluate"),
          "ghost_attention": {"split": "test"}},
         "split of ghost_attention is 'test', allowed is train: rejection learns"),
        ({"stages": ("rejection", "ghost_attention", "evaluate")}, "each once, in this order"),
        ({"stages": ("instruction_keeping", "evaluate")}, "which trains nothing"),
        ({"stages": ("sft", "evaluate")}, "setting 'data' is missing"),
        ({"stages": ("dpo", "evaluate")}, "setting 'pairs' is missing"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)  # fmt: skip
def test_a_round_is_refused_before_it_starts(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        a_round(**changes)


@pytest.mark.parametrize("variables", [
    {"RANK": "0", "WORLD_SIZE": "2"}, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
])  # fmt: skip
@pytest.mark.parametrize("stage", ["evaluate", "round"])
def test_one_process_that_a_launcher_started_twice_is_refused(
    monkeypatch, tmp_path, variables, stage
):
    """Each would do all of it."""
    monkeypatch.chdir(tmp_path)
    config = a_round()
    words = to_flags(to_mapping(config))
    if stage == "evaluate":
        words = stage_command(stage, config, Path("x"), Path("y"))[3:]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    main = import_module(f"rlhf_loop.{stage}").main
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == (
        f"rlhf_loop.{stage} is one process, and a launcher has started 2 of it; docs/launching.md "
        "says what several can share"
    )


def test_what_several_processes_can_share():
    """The stages that say so are those that a round starts behind its launcher."""
    said = {
        stage
        for stage in STAGES
        if "has_ranks=True" in Path(import_module(f"rlhf_loop.{stage}").__file__ or "").read_text()
    }
    assert said == RANKED_STAGES
    config = a_round(launcher="srun python")
    assert {stage for stage in STAGES if launcher_of(stage, config) == "srun python"} == said
    assert launcher_of("evaluate", config) is None


def test_a_launcher_that_lies_elsewhere():
    words = [sys.executable, "-m", "rlhf_loop.sft", "--seed", "1"]
    assert behind(None, words) == behind("", words) == words
    assert behind("/opt/run -n 2 'a b'", words) == ["/opt/run", "-n", "2", "a b", *words[1:]]
    assert behind("srun python", words) == ["srun", "python", *words[1:]]


def test_the_list_of_stages_does_not_load_torch():
    check = "import sys, rlhf_loop.round, rlhf_loop.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
