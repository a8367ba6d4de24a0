"""Settings of the loop that would change nothing are refused, and so are keys within addresses."""

from pathlib import Path

import pytest
import torch

from reward.command import command
from reward.settings import WithoutEffect, how_of, other_setting, to_flags, to_mapping
from rlhf_loop.config import (
    STAGE_CONFIGS,
    DPOConfig,
    EvaluateConfig,
    InstructionKeepingConfig,
    PPOConfig,
    RejectionConfig,
    RoundConfig,
    SamplingConfig,
    SFTConfig,
    TaskAccuracyConfig,
)

FOLDER = Path("folder")
SHARED = dict.fromkeys(("prompts", "policy", "helpfulness", "safety", "out"), FOLDER)
NEEDED = {
    PPOConfig: SHARED,
    RoundConfig: SHARED,
    SamplingConfig: {"prompts": FOLDER, "out": FOLDER, "model": (FOLDER,)},
    RejectionConfig: SHARED,
    EvaluateConfig: SHARED | {"against": FOLDER},
    TaskAccuracyConfig: {"model": FOLDER, "tasks": (FOLDER,), "out": FOLDER},
    SFTConfig: {"data": (FOLDER,), "model": FOLDER, "out": FOLDER},
    DPOConfig: {"pairs": (FOLDER,), "policy": FOLDER, "out": FOLDER},
}
GROUPED = {"advantage": "rloo", "answers_per_prompt": 2}


SERVED = {"timeout_seconds", "parallel_requests", "served_model", "hand_over", "weights_tolerance"}
DRAWS = SERVED | {"device", "generation_rows", "address"}


@pytest.mark.parametrize(("kind", "names"), [
    (SFTConfig, {"device", "tokens_per_minibatch", "recompute_activations",
                 "checkpoint_every_steps"}),
    (PPOConfig, DRAWS | {"tokens_per_minibatch", "recompute_activations", "checkpoint_every"}),
    (SamplingConfig, DRAWS),
    (EvaluateConfig, DRAWS | {"tokens_per_minibatch"}),
    (RoundConfig, {"launcher", *STAGE_CONFIGS}),
])  # fmt: skip
def test_what_says_how_is_computed_and_changes_nothing_but_rounding(kind, names):
    assert how_of(kind(**NEEDED[kind])).keys() == names


def test_a_server_may_move_and_what_draws_may_not():
    began = {"address": "http://one"}
    assert other_setting(SamplingConfig, began, {"address": "http://two"}) is None
    assert other_setting(SamplingConfig, began, {"address": None}) == "address"
    assert other_setting(SamplingConfig, {"address": None}, began) == "address"


@pytest.mark.parametrize(("kind", "settings", "advice"), [
    (EvaluateConfig, {}, "; a smaller --tokens-per-minibatch or --generation-rows needs less"),
    (EvaluateConfig, {"address": "http://x"}, "; a smaller --tokens-per-minibatch needs less"),
    (SamplingConfig, {}, "; a smaller --generation-rows needs less"),
    (DPOConfig, {}, "; a smaller --tokens-per-minibatch or --recompute-activations true needs "
     "less"),
    (DPOConfig, {"recompute_activations": True}, "; a smaller --tokens-per-minibatch needs less"),
    (RoundConfig, {}, ""),
])  # fmt: skip
def test_a_command_whose_device_has_no_memory_says_what_needs_less(kind, settings, advice):
    def full(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    with pytest.raises(SystemExit) as ended:
        command(kind, "program", full)(to_flags(to_mapping(kind(**NEEDED[kind], **settings))))
    assert ended.value.code == f"CUDA out of memory{advice}"


def test_what_else_goes_wrong_is_not_taken_for_it():
    def broken(config):
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        command(SFTConfig, "program", broken)(to_flags(to_mapping(SFTConfig(**NEEDED[SFTConfig]))))


@pytest.mark.parametrize(("kind", "without", "settings", "needed"), [
    (PPOConfig, GROUPED, {"lam": 0.9}, "advantage=gae"),
    (PPOConfig, GROUPED, {"vf_coef": 0.5}, "advantage=gae"),
    (PPOConfig, GROUPED, {"cliprange_value": 0.5}, "advantage=gae"),
    (PPOConfig, GROUPED, {"whiten_advantages": False}, "advantage=gae"),
    (PPOConfig, {"truncated": "mask"}, {"truncated_penalty": 2.0}, "truncated=penalise"),
    (PPOConfig, {"truncated": "keep"}, {"truncated_penalty": 2.0}, "truncated=penalise"),
    (SFTConfig, {"schedule": "constant"}, {"final_learning_rate_share": 0.1}, "schedule=cosine"),
    (DPOConfig, {}, {"final_learning_rate_share": 0.1}, "schedule=cosine"),
    (RejectionConfig, {"pool": False}, {"earlier": (FOLDER,)}, "pool=true"),
    (RejectionConfig, {}, {"timeout_seconds": 5.0}, "an address"),
    (RejectionConfig, {}, {"parallel_requests": 2}, "an address"),
    (EvaluateConfig, {}, {"judge_prompts": 5}, "a judge_address"),
    (EvaluateConfig, {}, {"resamples": 50}, "a judge_address"),
    (TaskAccuracyConfig, {"against": FOLDER}, {"resamples": 50}, "no against beside it"),
    (TaskAccuracyConfig, {"against": FOLDER}, {"seed": 1}, "no against beside it"),
    (SamplingConfig, {"address": "http://x"}, {"generation_rows": 8}, "no address beside it"),
    (EvaluateConfig, {}, {"task_chat": False}, "tasks"),
    (EvaluateConfig, {"diversity_prompts": 0}, {"diversity_samples": 5}, "diversity_prompts"),
])  # fmt: skip
def test_a_setting_that_changes_nothing_is_refused(kind, without, settings, needed):
    kind(**NEEDED[kind], **without)
    with pytest.raises(WithoutEffect, match=f"changes nothing: it needs {needed}"):
        kind(**NEEDED[kind], **without, **settings)


JUDGE = {"judge_model": "wise"}
KEEPING = dict.fromkeys(("prompts", "policy", "out"), FOLDER)


@pytest.mark.parametrize(("kind", "given", "name", "variable"), [
    (RejectionConfig, SHARED, "address", "SAMPLER_API_KEY"),
    (EvaluateConfig, NEEDED[EvaluateConfig] | JUDGE, "judge_address", "JUDGE_API_KEY"),
    (InstructionKeepingConfig, KEEPING | JUDGE, "judge_address", "JUDGE_API_KEY"),
])  # fmt: skip
def test_a_key_within_an_address_is_refused_and_not_shown(kind, given, name, variable):
    kind(**given, **{name: "https://host/v1"})
    for address in ("https://u:secret@host", "https://u:secret@host:99999", "http://h?key=secret"):
        with pytest.raises(ValueError, match=f"^{name} must hold no key: put it into {variable}$"):
            kind(**given, **{name: address})
    with pytest.raises(ValueError, match=f"^{name} is 'host:80', allowed is http:// or https://"):
        kind(**given, **{name: "host:80"})
