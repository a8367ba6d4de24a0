"""SIGKILL at random moments: a stage that is started again ends bit for bit as if undisturbed.

A fork server has loaded torch once, so that each start is quick and more of them are killed.
"""

import importlib
import json
import multiprocessing
import random
import time

import pytest

from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from reward.settings import to_flags
from rlhf_loop.prompts import write_prompts
from tests.reward.pairs import pairs
from tests.rlhf_loop.conftest import make_prompt

STAGES = ("sft", "temperature", "rejection", "dpo")
OF_THE_CLOCK = {"time", "seconds"}
KILLS = 3


def work(stage, flags, log):
    """The stage's command, on one thread as in every start of it."""
    import os
    import sys

    import torch

    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w")
    importlib.import_module(f"rlhf_loop.{stage}").main(flags)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"rlhf_loop.{stage}" for stage in STAGES])
    first = context.Process(target=time.sleep, args=(0,))  # the server has loaded all after this
    first.start()
    first.join()
    return context


@pytest.fixture(scope="module")
def settings(chat_model, judges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_pairs(folder / "pairs.jsonl", pairs(40))
    write_prompts(folder / "prompts.jsonl", [make_prompt(i) for i in range(40)])
    lines = [
        {"messages": [{"role": "user", "content": f"Hi {n}"},
                      {"role": "assistant", "content": "Good day." * (1 + n % 4)}]}
        for n in range(60)
    ]  # fmt: skip
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = {
        "prompts": folder / "prompts.jsonl", "policy": chat_model, **judges, "samples": 4,
        "max_new_tokens": 40, "chunk_prompts": 3,
    }  # fmt: skip
    steps = {"learning_rate": 3e-3, "batch": 4, "epochs": 2, "checkpoint_every": 2}
    return {
        "sft": {"data": [folder / "data.jsonl"], "model": chat_model, **steps},
        "temperature": {**drawn, "temperatures": [0.8, 1.5], "split": "train", "prompt_count": 9},
        "rejection": {**drawn, **steps, "temperature": 1.5, "sft_data": [folder / "data.jsonl"],
                      "packing": "within", "max_length": 64},
        "dpo": {"pairs": [folder / "pairs.jsonl"], "policy": chat_model,
                "warmup_steps": 3, **steps},
    }  # fmt: skip


def outcome(folder):
    """All that a run leaves and that must not depend on kills."""
    left = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in ("lock", "config.json", "metrics.jsonl")
    }
    lines = RunFolder(folder).metrics()
    figures = [{k: v for k, v in line.items() if k not in OF_THE_CLOCK} for line in lines]
    return {**left, "metrics.jsonl": figures}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_like_an_undisturbed_one(stage, processes, settings, tmp_path):
    def started(out):
        flags = to_flags({**settings[stage], "out": out, "device": "cpu"})
        child = processes.Process(target=work, args=(stage, flags, str(out) + ".log"))
        child.start()
        return child

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    child = started(whole)
    child.join()
    seconds = time.monotonic() - began
    assert child.exitcode == 0, (tmp_path / "whole.log").read_text()[-2000:]
    fell = 0
    while fell < KILLS and RunFolder(killed).result() is None:
        child = started(killed)
        child.join(random.uniform(0.1, 0.8) * seconds)
        child.kill()
        child.join()
        assert child.exitcode <= 0, (tmp_path / "killed.log").read_text()[-2000:]
        fell += child.exitcode < 0
    child = started(killed)
    child.join()
    assert child.exitcode == 0, (tmp_path / "killed.log").read_text()[-2000:]
    assert fell
    expected, found = outcome(whole), outcome(killed)
    assert found["metrics.jsonl"] == expected["metrics.jsonl"]
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert found.keys() == expected.keys()
