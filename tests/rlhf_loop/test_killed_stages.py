"""SIGKILL at random moments: a stage that is started again ends bit for bit as if undisturbed.

A fork server has loaded torch once, so that each start is quick and more of them are killed. What
the stages are given is what ``make proof`` gives them.
"""

import importlib
import multiprocessing
import random
import time

import pytest

from reward.run_folder import RunFolder
from rlhf_loop.replay import differences
from tests.kill_round import STAGES, inputs

NAMES = [name for name in STAGES if STAGES[name].command not in ("ppo", "round")]
KILLS = 3


def work(command, flags, log):
    """The stage's command, on one thread as in every start of it."""
    import os
    import sys

    import torch

    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w")
    importlib.import_module(f"rlhf_loop.{command}").main(flags)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"rlhf_loop.{STAGES[name].command}" for name in NAMES])
    first = context.Process(target=time.sleep, args=(0,))  # the server has loaded all after this
    first.start()
    first.join()
    return context


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_stage_ends_like_an_undisturbed_one(name, processes, given, tmp_path):
    stage = STAGES[name]

    def started(out):
        flags = stage.flags(given, out)
        child = processes.Process(target=work, args=(stage.command, flags, str(out) + ".log"))
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
    assert list(differences(whole, killed)) == []
