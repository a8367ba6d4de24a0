"""Real child processes under supervision: done, failed, killed, cancelled."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from django.db import connection

from annotation_app import exchange, snapshots, storage, tasks
from annotation_app.lineage import annotations_of, lineage
from annotation_app.models import Annotation, Checkpoint, DialogueRoot, Person, Run
from annotation_app.supervise import supervise
from reward.run_folder import RunFolder
from tests.annotation_app.rows import open_batch, released_chat_model
from tests.tiny_models import tiny_chat_model

pytestmark = pytest.mark.django_db(transaction=True)
CONFIG = {"pairs_per_step": 2, "epochs": 100, "checkpoint_every_steps": 5, "learning_rate": 1e-3}


@pytest.fixture
def queued(settings, tmp_path) -> Run:
    """Reward training of a tiny model on six judged comparisons, two of them held out."""
    settings.STORAGE_ROOT = tmp_path
    settings.HOLDOUT_SHARE = 0.0
    release = released_chat_model()
    tiny_chat_model(storage.path(release.checkpoint.storage_key))
    batch = open_batch(comparisons=6)
    held_out = list(DialogueRoot.objects.values_list("hash", flat=True)[:2])
    DialogueRoot.objects.filter(hash__in=held_out).update(split="holdout")
    bob = Person.objects.create_user("bob")
    while (annotation := Annotation.objects.lease_next(bob, batch)) is not None:
        annotation.record(choice="a", strength="better")
    return Run.queue(
        Run.Kind.REWARD_TRAINING,
        CONFIG,
        {"start": release.checkpoint, "snapshot": snapshots.write_snapshot("helpfulness")},
        criterion="helpfulness",
    )


def in_background(run: Run) -> threading.Thread:
    def work() -> None:
        tasks.start_run(run.pk)
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for_step(run: Run, step: int) -> RunFolder:
    folder = exchange.run_folder(run)
    deadline = time.monotonic() + 60
    while not (last := folder.last_metrics()) or last["step"] < step:
        assert time.monotonic() < deadline, folder.log_tail()
        time.sleep(0.02)
    return folder


def child_pid(folder: RunFolder) -> int:
    """The process that holds the folder's lock."""
    inode = os.stat(folder.path / "lock").st_ino
    with open("/proc/locks") as locks:
        return next(int(line.split()[4]) for line in locks if line.split()[5].endswith(f":{inode}"))


def test_it_works(queued):
    assert queued.claim()
    supervise(queued)
    queued.refresh_from_db()
    assert (queued.state, queued.step, queued.total_steps) == ("succeeded", 200, 200)
    checkpoint = Checkpoint.objects.get(run=queued)
    assert checkpoint.kind == "helpfulness_reward"
    assert checkpoint.metrics["count"] == 2
    assert checkpoint.sha256 == storage.folder_sha256(storage.path(checkpoint.storage_key))
    assert set(annotations_of(lineage(checkpoint).snapshots)) == set(Annotation.objects.all())


def test_a_failed_child_shows_its_last_words(queued):
    pairs = storage.path(queued.input("snapshot").storage_key) / "pairs.jsonl"
    pairs.write_text("{broken\n")
    tasks.start_run(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed"
    assert "ended with status 1" in queued.error
    assert "line 1: the line is" in queued.error


def test_a_killed_child_resumes(queued):
    thread = in_background(queued)
    folder = wait_for_step(queued, 30)
    os.kill(child_pid(folder), signal.SIGKILL)
    thread.join(60)
    queued.refresh_from_db()
    assert (queued.state, queued.attempt) == ("queued", 1)
    tasks.start_run(queued.pk)
    queued.refresh_from_db()
    assert (queued.state, queued.attempt) == ("succeeded", 2)
    assert "Resuming after step" in folder.log_file.read_text()
    assert [line["step"] for line in folder.metrics()] == list(range(1, 201))


def test_cancelling_ends_the_whole_process_group(queued):
    thread = in_background(queued)
    folder = wait_for_step(queued, 5)
    Run.objects.get(pk=queued.pk).cancel()
    thread.join(60)
    queued.refresh_from_db()
    assert queued.state == "cancelled"
    assert not folder.is_held()
    assert folder.result() is None


def test_the_child_sees_no_secrets(queued, monkeypatch):
    from annotation_app.supervise import child_environment

    monkeypatch.setenv("SECRET_KEY", "top secret")
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@host/name")
    queued.claim()
    environment = child_environment(queued)
    assert not {"SECRET_KEY", "DATABASE_URL"} & environment.keys()
    assert environment["HF_HUB_OFFLINE"] == "1"


TWO_RANKS = "torchrun --standalone --nproc-per-node 2"


def test_many_ranks_behind_the_train_launcher(queued, settings):
    """For reward models only; torchrun is found beside this Python whatever PATH says."""
    settings.CHILD_LAUNCHER, settings.TRAIN_LAUNCHER = "srun python", TWO_RANKS
    words = exchange.command(queued)
    assert words[0] == str(Path(sys.executable).with_name("torchrun"))
    assert words[1:6] == ["--standalone", "--nproc-per-node", "2", "-m", "reward.train"]
    settings.TRAIN_LAUNCHER = ""
    assert exchange.command(queued)[:4] == ["srun", "python", "-m", "reward.train"]


def test_no_rank_survives_a_cancel(queued, settings):
    settings.TRAIN_LAUNCHER = TWO_RANKS
    queued.config |= {"epochs": 5_000, "device": "cpu"}
    queued.save()
    thread = in_background(queued)
    folder = wait_for_step(queued, 2)
    ranks = [p for p in psutil.process_iter(["cmdline"]) if str(folder.path) in str(p.info)]
    assert len(ranks) >= 3  # torchrun and its two
    Run.objects.get(pk=queued.pk).cancel()
    thread.join(60)
    assert not thread.is_alive()
    queued.refresh_from_db()
    assert queued.state == "cancelled"
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
    assert not folder.is_held()
