"""Every figure that the pages draw is one that training logs, seen in tiny runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from annotation_app import curves, stage_curves
from reward.config import TrainConfig
from reward.model import save_reward_model, start_from_chat_model
from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from reward.train import train as train_reward_model
from rlhf_loop import context_distillation, dpo, ghost_attention, ppo, rejection, sft
from rlhf_loop.config import (
    ContextDistillationConfig,
    DPOConfig,
    GhostAttentionConfig,
    PPOConfig,
    RejectionConfig,
    SFTConfig,
)
from rlhf_loop.prompts import write_prompts
from tests.reward.pairs import pairs
from tests.rlhf_loop.conftest import make_prompt
from tests.tiny_models import brief_chat_model, tiny_chat_model


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> dict[str, set[str]]:
    """What a run of each kind has logged. What is drawn only where it is on or happens is there: a
    centring penalty, a value model of its own, a threshold that half of the answers are under."""
    folder: Path = tmp_path_factory.mktemp("drawn")
    chat = tiny_chat_model(folder / "chat")
    write_pairs(folder / "pairs.jsonl", pairs(12, "safety"))
    write_prompts(folder / "prompts.jsonl", [make_prompt(number) for number in range(16)])
    turn = [{"role": role, "content": "Good day."} for role in ("user", "assistant")]
    (folder / "data.jsonl").write_text(json.dumps({"messages": turn}) + "\n")
    for seed, name in enumerate(("helpfulness", "safety")):
        save_reward_model(*start_from_chat_model(chat, seed), folder / name)
    drawing: dict[str, Any] = {
        "prompts": folder / "prompts.jsonl", "policy": chat, "helpfulness": folder / "helpfulness",
        "safety": folder / "safety", "max_new_tokens": 12, "device": "cpu",
    }  # fmt: skip

    train_reward_model(TrainConfig(
        pairs=folder / "pairs.jsonl", model=chat, criterion="safety", centring=0.01,
        pairs_per_step=4, device="cpu", out=folder / "reward_training",
    ))  # fmt: skip
    sft.train(SFTConfig(data=(folder / "data.jsonl",), model=chat, out=folder / "sft"))
    # 60 tokens: some of the random model's answers end by themselves, and only these are learnt.
    rejection.run_rejection(RejectionConfig(
        **{**drawing, "max_new_tokens": 60}, samples=6, temperature=1.5, batch=4, epochs=1,
        out=folder / "rejection",
    ))  # fmt: skip
    dpo.train(DPOConfig(
        pairs=(folder / "pairs.jsonl",), policy=chat, device="cpu", out=folder / "dpo",
    ))  # fmt: skip
    ppo.train(PPOConfig(
        **drawing, iterations=2, batch=12, minibatch=4, validate_every=1, threshold=0.5,
        value="helpfulness",
        out=folder / "ppo",
    ))  # fmt: skip
    brief = {"policy": brief_chat_model(folder / "brief", chat), "max_new_tokens": 12,
             "prompts": folder / "prompts.jsonl", "device": "cpu"}  # fmt: skip
    anything = {"kind": "any", "instruction": "Say {value}.", "terse": "Say: {value}",
                "values": ["something"], "check": {"pattern": ""}}  # fmt: skip
    (folder / "constraints.json").write_text(json.dumps({"constraints": [anything]}))
    ghost_attention.build(GhostAttentionConfig(
        **brief, constraints=folder / "constraints.json", dialogues=40, longest_turns=2,
        out=folder / "ghost_attention",
    ))  # fmt: skip
    context_distillation.distil(ContextDistillationConfig(
        **brief, safety=folder / "safety", out=folder / "context_distillation",
    ))  # fmt: skip
    kinds = ("reward_training", "sft", "rejection", "dpo", "ppo", "ghost_attention",
             "context_distillation")  # fmt: skip
    return {
        kind: {name for line in RunFolder(folder / kind).metrics() for name in line}
        for kind in kinds
    }


@pytest.mark.parametrize("stage", stage_curves.CURVES)
def test_a_stage_logs_what_is_drawn_of_it(logged, stage):
    panels = [panel for _, group in stage_curves.CURVES[stage] for panel in group]
    drawn = {key for panel in panels for key in panel.lines}
    assert drawn - logged[stage] == set()


@pytest.mark.parametrize("kind", curves.CURVES)
def test_a_run_logs_what_its_curves_are_drawn_of(logged, kind):
    drawn = {key for curve in curves.CURVES[kind] for key in curve.series}
    assert drawn - logged[kind] == set()
