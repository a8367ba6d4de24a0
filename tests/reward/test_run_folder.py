"""The run folder: one writer, whole files, and children that do not outlive their supervisor."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

import pytest

from reward.run_folder import PARENT_VARIABLE, RunFolder, RunFolderBusy
from reward.settings import HOW, Settings, setting

HOLD = """
import sys, time
from reward.run_folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@dataclass(frozen=True, kw_only=True)
class Asked(Settings):
    epochs: int = setting(1, "what")
    rows: int = setting(8, "how", how=HOW)


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


def test_who_looks_disturbs_nobody(tmp_path, monkeypatch):
    """Neither another one who looks at the same moment, nor a child that begins then."""
    monkeypatch.setattr("reward.run_folder.LOOKING_SECONDS", 30.0)
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
    folder.write_config(Asked(epochs=1))
    folder.rewind_metrics(-1)
    folder.write_config(Asked(epochs=2))
    folder.begin()
    with pytest.raises(ValueError, match="was started with epochs=2, not 3: use another --out"):
        folder.write_config(Asked(epochs=3))
    assert stored(folder) == {"epochs": 2, "rows": 8}


def stored(folder):
    return json.loads(folder.config_file.read_text())


def test_how_something_is_computed_may_change_and_every_start_is_kept(tmp_path):
    for rows in (8, 4, 4):
        folder = RunFolder(tmp_path)
        folder.write_config(Asked(rows=rows))
        folder.write_provenance({})
        folder.begin()
    assert stored(folder) == {"epochs": 1, "rows": 4}
    provenance = json.loads(folder.provenance_file.read_text())
    assert provenance["settings"] == {"rows": 8}
    assert [start["settings"] for start in provenance["later"]] == [{"rows": 4}] * 2


def test_a_checkpoint_is_of_what_was_asked_and_not_of_how(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config(Asked(rows=8))
    folder.save_checkpoint(lambda new: (new / "weights").write_text("good"))
    folder.begin()
    again = RunFolder(tmp_path)
    again.write_config(Asked(rows=4))
    assert again.resumable_checkpoint() == folder.checkpoint
    folder.config_file.unlink()
    again.write_config(Asked(epochs=2, rows=8))
    with pytest.raises(ValueError, match="is the checkpoint of another run"):
        again.resumable_checkpoint()


def test_what_is_done_stays_as_it_was_made(tmp_path, capsys):
    def ask(**settings):
        return RunFolder(tmp_path).once(Asked(**settings), lambda: {"steps": 3})

    assert ask(rows=8)["steps"] == 3
    RunFolder(tmp_path).begin()
    assert ask(rows=4)["steps"] == 3
    assert capsys.readouterr().out == f"{tmp_path} is done already.\n"
    assert stored(RunFolder(tmp_path)) == {"epochs": 1, "rows": 8}
    with pytest.raises(ValueError, match="was started with epochs=1, not 2"):
        ask(epochs=2)


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
