"""Stages beside PPO: two processes, each with its part of a step, end where one process ends."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward.lines import write_records
from reward.preferences import Message, write_pairs
from reward.run_folder import RunFolder
from tests.reward.pairs import pairs
from tests.rlhf_loop.conftest import read_lines
from tests.rlhf_loop.steps_of_ranks import launch

LEARNING = {
    "device": "cpu", "batch": 5, "epochs": 2, "learning_rate": 0.05, "adam_epsilon": 1.0,
    "warmup_steps": 1, "checkpoint_every_steps": 2, "tokens_per_minibatch": 60,
}  # fmt: skip
TRAINING = ("sft", "dpo", "rejection")


DRAWING = {"device": "cpu", "samples": 6, "max_new_tokens": 60}


def settings(
    stage: str, out: Path, data: Path, chat_model: Path, shared: dict[str, str]
) -> dict[str, object]:
    """Eleven answers, five a step: the last step of an epoch leaves one process without any. Eight
    prompts in chunks of seven: so does the last chunk."""
    drawn = {**DRAWING, **shared, "policy": str(chat_model), "chunk_prompts": 7}
    read = {
        "sft": {**LEARNING, "model": str(chat_model), "data": [str(data / "answers.jsonl")]},
        "dpo": {**LEARNING, "policy": str(chat_model), "pairs": [str(data / "pairs.jsonl")]},
        "temperature": {**drawn, "temperatures": [0.5, 1.5], "split": "train"},
        "rejection": {
            **LEARNING, **drawn, "temperature": 1.5, "earlier": [str(data / "earlier.jsonl")],
        },
    }  # fmt: skip
    return {**read[stage], "out": str(out)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chat_model, brief_model, judges, prompts) -> Path:
    work = tmp_path_factory.mktemp("steps")
    some = pairs(11)
    write_pairs(work / "pairs.jsonl", some)
    dialogues = [[*pair.prompt, Message("assistant", pair.chosen)] for pair in some]
    records = [{"messages": [m._asdict() for m in messages]} for messages in dialogues]
    write_records(work / "answers.jsonl", records)
    earlier = [
        {
            "prompt_id": f"e{n}",
            "root": pair.root,
            "is_safety": False,
            "messages": record["messages"],
        }
        for n, (pair, record) in enumerate(zip(some, records, strict=True))
    ]
    write_records(work / "earlier.jsonl", earlier)
    shared = {"prompts": str(prompts), **{name: str(path) for name, path in judges.items()}}
    for number in (1, 2):
        runs = [
            (stage, settings(stage, work / f"{stage} {number}", work, chat_model, shared))
            for stage in (*TRAINING, "temperature")
        ]
        rounded = settings("dpo", work / f"rounded {number}", work, brief_model, shared)
        runs.append(("dpo", {**rounded, "train_dtype": "bfloat16"}))
        launch(number, runs, work / f"{number}.json")
    return work


@pytest.mark.parametrize("stage", TRAINING)
def test_it_works(trained, chat_model, stage):
    """Weights and the figures of every step of two ranks are those of one, and have moved."""
    one, two = (trained / f"{stage} {number}" for number in (1, 2))
    folders = (chat_model, one / "model", two / "model")
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert weights[1].keys() == weights[2].keys() == weights[0].keys()
    start, first, second = (
        torch.cat([w[n].double().flatten() for n in sorted(w)]) for w in weights
    )
    assert (first - second).norm() < 1e-5 * first.norm()
    assert (first - start).norm() > 1e-3 * first.norm()
    lines = [RunFolder(run).metrics() for run in (one, two)]
    assert [line["step"] for line in lines[0]] == list(range(1, len(lines[0]) + 1))
    for mine, theirs in zip(*lines, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"time", "sft/computed_tokens", "dpo/computed_tokens"}:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name
    assert [RunFolder(run).result()["ranks"] for run in (one, two)] == [1, 2]


def test_in_bfloat16_dpo_begins_at_its_reference(trained):
    """A whole model says what a divided one is held against: both round alike, norms too."""
    one, two = (RunFolder(trained / f"rounded {number}").metrics() for number in (1, 2))
    for lines in (one, two):
        assert lines[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert lines[-1]["dpo/margin"] > 1e-3
    assert two[-1]["dpo/loss"] == pytest.approx(one[-1]["dpo/loss"], rel=0.1)


@pytest.mark.parametrize(("stage", "file"), [
    ("temperature", "samples.jsonl"), ("rejection", "candidates.jsonl"),
    ("rejection", "selected.jsonl"),
])  # fmt: skip
def test_two_processes_draw_and_score_what_one_does(trained, stage, file):
    """Each the answers to its own prompts; the first stores them all, in their order."""
    one, two = (read_lines(trained / f"{stage} {number}" / file) for number in (1, 2))
    assert len(one) == len(two) >= 8
    for mine, theirs in zip(one, two, strict=True):
        scores = {"helpfulness", "safety", "score"}
        assert {k: v for k, v in mine.items() if k not in scores} == {
            k: v for k, v in theirs.items() if k not in scores
        }
        for name in scores:
            assert theirs[name] == pytest.approx(mine[name], abs=1e-5), name


def test_two_processes_pick_the_same_temperature(trained):
    one, two = (RunFolder(trained / f"temperature {number}").result() for number in (1, 2))
    assert one["temperature"] == two["temperature"]
    assert one["prompts"] == 8
