"""Fine-tuning and DPO: two processes, each with its part of a step, end where one process ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward.lines import write_records
from reward.preferences import Message, write_pairs
from reward.run_folder import RunFolder
from tests.reward.pairs import pairs
from tests.rlhf_loop.steps_of_ranks import launch

LEARNING = {
    "device": "cpu", "batch": 5, "epochs": 2, "learning_rate": 0.05, "adam_eps": 1.0,
    "warmup_steps": 1, "checkpoint_every": 2, "tokens_per_minibatch": 60,
}  # fmt: skip
STAGES = ("sft", "dpo")


def settings(stage: str, out: Path, data: Path, chat_model: Path) -> dict[str, object]:
    """Eleven answers, five a step: the last step of an epoch leaves one process without any."""
    read = {
        "sft": {"model": str(chat_model), "data": [str(data / "answers.jsonl")]},
        "dpo": {"policy": str(chat_model), "pairs": [str(data / "pairs.jsonl")]},
    }
    return {**LEARNING, **read[stage], "out": str(out)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chat_model) -> Path:
    work = tmp_path_factory.mktemp("steps")
    some = pairs(11)
    write_pairs(work / "pairs.jsonl", some)
    dialogues = [[*pair.prompt, Message("assistant", pair.chosen)] for pair in some]
    records = [{"messages": [m._asdict() for m in messages]} for messages in dialogues]
    write_records(work / "answers.jsonl", records)
    for number in (1, 2):
        runs = [
            (stage, settings(stage, work / f"{stage} {number}", work, chat_model))
            for stage in STAGES
        ]
        launch(number, runs, work / f"{number}.json")
    return work


@pytest.mark.parametrize("stage", STAGES)
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
    assert [line["step"] for line in lines[0]] == [1, 2, 3, 4, 5, 6]
    for mine, theirs in zip(*lines, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"time", f"{stage}/computed_tokens"}:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name
    assert [RunFolder(run).result()["ranks"] for run in (one, two)] == [1, 2]
