"""Prompts without room for an answer are refused before anything is drawn, by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reward.model import save_reward_model, start_from_chat_model, stored_context
from reward.preferences import Message
from reward.run_folder import RunFolder
from rlhf_loop.config import (
    ContextDistillationConfig,
    EvaluateConfig,
    PPOConfig,
    RejectionConfig,
    SamplingConfig,
    TemperatureConfig,
)
from rlhf_loop.context_distillation import distil
from rlhf_loop.evaluate import evaluate
from rlhf_loop.policy import load_chat_model, prompt_tokens
from rlhf_loop.ppo import train
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts
from rlhf_loop.rejection import run_rejection
from rlhf_loop.room import refuse_without_room
from rlhf_loop.sampling import sample
from rlhf_loop.temperature import sweep
from tests.rlhf_loop.conftest import make_prompt
from tests.tiny_models import SHAPE, tiny_chat_model

CONTEXT = SHAPE["max_position_embeddings"]


def with_words(number: int, count: int, split: PromptSplit = PromptSplit.TRAIN) -> Prompt:
    prompt = replace(make_prompt(number), split=split)
    return replace(prompt, messages=(Message("user", "why " * count),))


def test_it_works(chat_model):
    """The longest prompt that fits, and one token less room."""
    prompts = [with_words(1, 20), with_words(2, 40)]
    _, tokenizer = load_chat_model(chat_model, "cpu")
    short, long = (len(prompt_tokens(tokenizer, p.messages)) for p in prompts)
    refuse_without_room(prompts, CONTEXT - long, [chat_model])
    with pytest.raises(ValueError, match="leave no room") as refused:
        refuse_without_room(prompts, CONTEXT - long + 1, [chat_model])
    assert str(refused.value) == (
        f"1 of 2 prompts leave no room for an answer: 'p2' with {long} tokens; allowed are "
        f"{long - 1}: the context of {chat_model}, {CONTEXT}, less max_new_tokens "
        f"{CONTEXT - long + 1}"
    )
    assert short < long


def test_the_first_ones_are_named_and_all_are_counted(chat_model):
    prompts = [with_words(i, 300) for i in range(8)]
    with pytest.raises(ValueError, match=r"8 of 8 prompts .* 'p4' with \d+ tokens and 3 more;"):
        refuse_without_room(prompts, 1, [chat_model])


def test_a_reward_model_reads_the_end_of_an_answer_too(chat_model, judges):
    prompt = with_words(1, 40)
    _, tokenizer = load_chat_model(chat_model, "cpu")
    most = CONTEXT - len(prompt_tokens(tokenizer, prompt.messages))
    refuse_without_room([prompt], most, [chat_model])
    refuse_without_room([prompt], most - 1, [chat_model], judges.values())
    with pytest.raises(ValueError, match=r"the context of .*helpfulness, 256, less max_new"):
        refuse_without_room([prompt], most, [chat_model], judges.values())


def with_context(folder: Path, **changes: object) -> Path:
    """The folder with these settings in its configuration."""
    file = folder / "config.json"
    kept = {k: v for k, v in json.loads(file.read_text()).items() if k not in changes}
    added = {name: value for name, value in changes.items() if value is not None}
    file.write_text(json.dumps({**kept, **added}))
    return folder


def test_a_context_stands_in_the_configuration_of_the_text_model(tmp_path):
    """Models that also read images have one within the other; some families have no limit."""
    folder = tiny_chat_model(tmp_path / "chat")
    assert stored_context(folder) == CONTEXT
    inner = json.loads((folder / "config.json").read_text())
    outer = {"model_type": "llava", "text_config": {**inner, "max_position_embeddings": 77}}
    (folder / "config.json").write_text(json.dumps(outer))
    assert stored_context(folder) == 77
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    assert stored_context(folder) is None
    refuse_without_room([with_words(1, 300)], 10_000, [folder])
    (folder / "config.json").write_text('{"model_type": "unheard of"}')
    with pytest.raises(ValueError, match="chat has no configuration that can be read"):
        stored_context(folder)


# --- every command that draws asks it first ------------------------------------------------------

STAGES = {
    "ppo": (PPOConfig, train, PromptSplit.TRAIN),
    "ppo, validation": (PPOConfig, train, PromptSplit.VALIDATION),
    "rejection": (RejectionConfig, run_rejection, PromptSplit.TRAIN),
    "temperature": (TemperatureConfig, sweep, PromptSplit.VALIDATION),
    "evaluate": (EvaluateConfig, evaluate, PromptSplit.TEST),
    "sampling": (SamplingConfig, sample, PromptSplit.TRAIN),
    "context distillation": (ContextDistillationConfig, distil, PromptSplit.TRAIN),
}


def no_weights(*_: object) -> None:
    raise AssertionError("weights are loaded")


@pytest.fixture
def settings(chat_model, judges, tmp_path):
    """What the commands of STAGES are given, their last prompt too long."""

    def given(name: str) -> dict[str, object]:
        _, _, split = STAGES[name]
        prompts = [make_prompt(i) for i in range(16)]
        prompts.append(replace(with_words(90, 300, split), is_safety=True))
        write_prompts(tmp_path / "prompts.jsonl", prompts)
        found = {
            "prompts": tmp_path / "prompts.jsonl", "policy": chat_model, **judges,
            "out": tmp_path / "run", "device": "cpu", "max_new_tokens": 12,
        }  # fmt: skip
        if name == "evaluate":
            found["against"] = chat_model
        if name == "sampling":
            found = {k: v for k, v in found.items() if k not in ("policy", *judges)}
            found["model"] = (chat_model,)
        if name == "context distillation":
            del found["helpfulness"]
        return found

    return given


@pytest.mark.parametrize("name", STAGES)
def test_a_prompt_without_room_ends_a_run_before_anything_is_loaded(settings, name, monkeypatch):
    kind, run, _ = STAGES[name]
    given = settings(name)
    for module in ("ppo.Learner", "rejection.RewardModels", "temperature.load_chat_model",
                   "evaluate.load_chat_model", "sampling.load_chat_model",
                   "context_distillation.load_chat_model"):  # fmt: skip
        monkeypatch.setattr(f"rlhf_loop.{module}", no_weights)
    with pytest.raises(ValueError, match=r"^1 of \d+ prompts leave no room .* 'p90' with \d+ tok"):
        run(kind(**given))
    assert not [line for line in RunFolder(given["out"]).metrics() if "objective/scores" in line]


@pytest.mark.parametrize("name", [name for name in STAGES if name != "sampling"])
def test_a_reward_model_of_a_smaller_context_is_asked_too(settings, name, chat_model, tmp_path):
    """256 less 12 is room for the policy, 40 less 12 is none for the safety model."""
    kind, run, split = STAGES[name]
    save_reward_model(*start_from_chat_model(chat_model, 0), tmp_path / "small")
    small = with_context(tmp_path / "small", max_position_embeddings=40)
    given = settings(name) | {"safety": small}
    write_prompts(given["prompts"], [
        *(make_prompt(i) for i in range(16)),
        replace(with_words(90, 15, split), is_safety=True),
    ])  # fmt: skip
    with pytest.raises(ValueError, match=r"'p90' with \d+ tokens; allowed are 28: .*small, 40, "):
        run(kind(**given))


@pytest.mark.parametrize(("name", "setting"), [("ppo", "reference"), ("evaluate", "against"),
                                               ("evaluate", "independent")])  # fmt: skip
def test_every_model_that_reads_the_answers_is_asked(settings, name, setting, tmp_path):
    kind, run, split = STAGES[name]
    small = tiny_chat_model(tmp_path / "small")
    if setting == "independent":
        save_reward_model(*start_from_chat_model(small, 0), tmp_path / "small")
    given = settings(name) | {setting: with_context(small, max_position_embeddings=40)}
    write_prompts(given["prompts"], [
        *(make_prompt(i) for i in range(16)), with_words(90, 15, split)
    ])  # fmt: skip
    with pytest.raises(ValueError, match=r"'p90' with \d+ tokens; allowed are 28: .*small, 40, "):
        run(kind(**given))


def test_the_second_model_that_samples_is_asked_before_the_first_draws(settings, tmp_path):
    small = with_context(tiny_chat_model(tmp_path / "small"), max_position_embeddings=40)
    given = settings("sampling")
    write_prompts(given["prompts"], [with_words(90, 15)])
    given["model"] = (*given["model"], small)
    with pytest.raises(ValueError, match=r"'p90' with .*small, 40, less max_new_tokens 12"):
        sample(SamplingConfig(**given))
    assert not (given["out"] / "responses.jsonl").exists()
