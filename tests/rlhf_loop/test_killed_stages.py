"""SIGKILL at random moments: a stage that is started again ends bit for bit as if undisturbed.

What the stages are given is what ``make proof`` gives them.
"""

import random
import shutil
import signal
import time

import pytest

from reward.run_folder import RunFolder
from rlhf_loop.replay import differences
from tests import forked
from tests.kill_round import STAGES, inputs
from tests.marked_stage import owner_of

NAMES = [name for name in STAGES if STAGES[name].command not in ("ppo", "round")]
KILLS = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    forked.server()
    return inputs(tmp_path_factory.mktemp("inputs"))


def test_every_mark_is_on_a_function():
    """``make proof`` waits for these; a function that moved would let it wait for ever."""
    for name, stage in STAGES.items():
        for place in stage.marks.values():
            home, _, function = place.rpartition(".")
            assert callable(getattr(owner_of(home), function)), (name, place)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_stage_ends_like_an_undisturbed_one(name, given, tmp_path):
    stage = STAGES[name]

    def started(out):
        log = tmp_path / f"{out.name}.log"
        return forked.start(f"rlhf_loop.{stage.command}", stage.flags(given, out), log)

    def finished(out):
        assert started(out).wait() == 0, (tmp_path / f"{out.name}.log").read_text()[-2000:]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    finished(whole)
    seconds = time.monotonic() - began
    fell = 0
    while fell < KILLS:
        if RunFolder(killed).result() is not None:
            if fell:
                break
            shutil.rmtree(killed)  # it ended before its kill: the undisturbed one had been slower
            seconds /= 2
        child = started(killed)
        child.wait(random.uniform(0.1, 0.8) * seconds)
        child.kill()
        status = child.wait()
        assert status in (0, -signal.SIGKILL), (tmp_path / "killed.log").read_text()[-2000:]
        fell += status != 0
    finished(killed)
    assert list(differences(whole, killed)) == []
