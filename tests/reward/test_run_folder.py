"""The run folder: one writer, whole files, and children that do not outlive their supervisor."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading

import pytest

from reward.run_folder import PARENT_VARIABLE, RunFolder, RunFolderBusy

HOLD = """
import sys, time
from reward.run_folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path, **environment) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert child.stdout.readline() == "held\n"
    return child


def test_one_writer_at_a_time(tmp_path):
    folder = RunFolder(tmp_path)
    child = holder(tmp_path)
    try:
        assert folder.is_held()
        with pytest.raises(RunFolderBusy, match="is held by another running process"), \
                folder.locked():  # fmt: skip
            pass
    finally:
        child.kill()
        child.wait()
    assert not folder.is_held()
    with folder.locked():
        assert folder.is_held()


def test_who_looks_disturbs_nobody(tmp_path):
    """Neither another one who looks at the same moment, nor a child that begins then."""
    folder = RunFolder(tmp_path)
    with folder.locked():
        pass
    with (tmp_path / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # what is_held has for a moment
        assert not folder.is_held()
        threading.Timer(0.1, looking.close).start()
        with folder.locked():
            assert folder.is_held()


def test_a_child_dies_with_its_supervisor(tmp_path):
    supervisor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child = holder(tmp_path, **{PARENT_VARIABLE: str(supervisor.pid)})
    assert child.poll() is None
    supervisor.kill()
    supervisor.wait()
    assert child.wait(10) == -9


def test_metrics_are_rewound_and_refuse_what_is_not_finite(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.log_metrics(step, 3, loss=1 / step)
    folder.rewind_metrics(2)
    assert [line["step"] for line in folder.metrics()] == [1, 2]
    assert folder.last_metrics()["loss"] == 0.5
    with pytest.raises(ValueError, match="loss is nan at step 3"):
        folder.log_metrics(3, 3, loss=float("nan"))


def test_a_folder_is_another_run_s_once_something_was_made(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config({"address": "http://localhost:1"})
    folder.rewind_metrics(-1)
    folder.write_config({"address": "http://localhost:2"})
    folder.begin()
    with pytest.raises(ValueError, match="was started with address='http://localhost:2', not 'h"):
        folder.write_config({"address": "http://localhost:3"})
    assert "localhost:2" in folder.config_file.read_text()


def test_half_a_line_is_not_read(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log_metrics(1, 2, loss=0.5)
    with folder.metrics_file.open("a") as file:
        file.write('{"step": 2, "lo')
    assert [line["step"] for line in folder.metrics()] == [1]
    assert folder.last_metrics()["step"] == 1


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(lambda new: (new / "weights").write_text("good"))

    def fail(new):
        (new / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.save_checkpoint(fail)
    assert (folder.resumable_checkpoint() / "weights").read_text() == "good"


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(lambda new: (new / "weights").write_text("good"))
    os.rename(folder.checkpoint, tmp_path / "checkpoint.old")
    assert (folder.resumable_checkpoint() / "weights").read_text() == "good"


def test_killed_while_it_writes_a_checkpoint(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(lambda new: (new / "weights").write_text("good"))
    writing = (
        "import sys, time; from reward.run_folder import RunFolder\n"
        "def slow(new):\n"
        "    (new / 'weights').write_text('half'); print('writing', flush=True); time.sleep(60)\n"
        "RunFolder(sys.argv[1]).save_checkpoint(slow)\n"
    )
    command = [sys.executable, "-c", writing, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "writing\n"
        child.kill()
    assert (folder.resumable_checkpoint() / "weights").read_text() == "good"
    folder.save_checkpoint(lambda new: (new / "weights").write_text("next"))
    assert (folder.resumable_checkpoint() / "weights").read_text() == "next"


def test_progress_on_a_terminal(tmp_path):
    """A pseudo-terminal of no size, as some supervisors give."""
    ours, theirs = os.openpty()
    steps = (
        "import sys; from reward.run_folder import RunFolder; run = RunFolder(sys.argv[1])\n"
        "run.rewind_metrics(0)\n"
        "for step in (1, 2): run.log_metrics(step, 2)\n"
    )
    subprocess.run([sys.executable, "-c", steps, str(tmp_path)], stdout=theirs, check=True)
    shown = os.read(ours, 1000).decode()
    assert "] 1/2, 0:00:0" in shown
    assert "\r" in shown
    assert shown.endswith("] 2/2, 0:00:00 left\r\n")


def test_the_result_carries_its_attempt(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_ATTEMPT", "3")
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(lambda new: (new / "weights").write_text("x"))
    folder.write_result({"model": "model"})
    assert folder.result() == {"attempt": 3, "model": "model"}
    assert not folder.checkpoint.exists()


def test_log_tail_shows_the_last_state_of_a_progress_bar(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log_file.write_text("\x1b[1mstarting\x1b[0m\n 10 %\r 50 %\r100 %\ndone\n")
    assert folder.log_tail() == "starting\n100 %\ndone"
