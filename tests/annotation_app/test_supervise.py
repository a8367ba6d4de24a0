"""Real child processes under supervision: done, failed, killed, cancelled."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from django.db import DataError, OperationalError, connection
from django.utils import timezone

from annotation_app import exchange, snapshots, storage, supervise, tasks
from annotation_app.lifecycle import runs
from annotation_app.lineage import annotations_of, lineage
from annotation_app.models import Annotation, Checkpoint, DialogueRoot, Person, Run
from annotation_app.supervise import child_environment
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
    deadline = time.monotonic() + 300
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
    supervise.supervise(queued)
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


def test_a_database_that_is_away_for_a_moment_ends_no_training(queued, caplog):
    queued.claim()
    away = iter([True, True])

    def refuse(execute, sql, *given):
        if sql.startswith("UPDATE") and next(away, False):
            raise OperationalError("the connection is lost")
        return execute(sql, *given)

    with connection.execute_wrapper(refuse):
        supervise.supervise(queued)
    queued.refresh_from_db()
    assert (queued.state, queued.attempt, next(away, None)) == ("succeeded", 1, None)
    assert "works on, but the database is away: the connection is lost" in caplog.text


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
    monkeypatch.setenv("SECRET_KEY", "top secret")
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@host/name")
    queued.claim()
    environment = child_environment(queued)
    assert not {"SECRET_KEY", "DATABASE_URL"} & environment.keys()
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_nor_any_password_of_the_compose_set_up(queued, monkeypatch):
    compose = (Path(__file__).parents[2] / "docker-compose.yml").read_text()
    names = set(re.findall(r"\b[A-Z_]*PASSWORD\b", compose))
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD"} <= names
    for name in names:
        monkeypatch.setenv(name, "top secret")
    assert "top secret" not in child_environment(queued).values()


def ends(run: Run, monkeypatch, error: Exception) -> Run:
    """A child has left its result, and storing it raises this."""
    folder = exchange.run_folder(run)
    run.claim()
    folder.path.mkdir(parents=True)
    folder.write_result({})

    def refuse(*given: object) -> None:
        raise error

    monkeypatch.setattr(runs, "run_succeeded", refuse)
    supervise._report_end(run, folder, 0, cancelled=False)
    run.refresh_from_db()
    return run


def test_a_result_that_no_row_takes_ends_the_run(queued, monkeypatch, caplog):
    error = DataError("text fields cannot contain NUL (0x00) bytes")
    run = ends(queued, monkeypatch, error)
    assert run.state == "failed"
    assert "its result could not be stored: DataError('text fields cannot" in run.error
    assert "Traceback" in caplog.text


def test_a_result_waits_for_a_database_that_is_away(queued, monkeypatch):
    with pytest.raises(OperationalError):
        ends(queued, monkeypatch, OperationalError("the connection is lost"))
    queued.refresh_from_db()
    assert queued.state == "running"


def test_a_log_with_a_nul_is_shown(queued):
    queued.claim()
    folder = exchange.run_folder(queued)
    folder.path.mkdir(parents=True)
    folder.log_file.write_bytes(b"before\x00after")
    assert supervise.report_progress(queued, folder)
    assert Run.objects.get().log_tail == "before\ufffdafter"


@pytest.mark.parametrize("name", ["answers.jsonl", "judge/answers.jsonl"])
def test_records_are_a_sign_of_life_too(queued, name):
    """A judge may answer for an hour between two lines of figures."""
    queued.claim()
    folder = exchange.run_folder(queued)
    folder.path.mkdir(parents=True)
    folder.log_metrics(1, 4)
    soon = time.time() + 60
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_text("{}\n")
    os.utime(folder.path / name, (soon, soon))
    assert supervise.report_progress(queued, folder)
    assert Run.objects.get().heartbeat_at.timestamp() == pytest.approx(soon)


@pytest.mark.parametrize(("seconds", "state"), [(60, "running"), (601, "queued")])
def test_a_child_may_wait_before_it_takes_its_folder(queued, settings, seconds, state):
    """It imports from a slow disk, or stands in a cluster's queue."""
    settings.RUN_HEARTBEAT_TIMEOUT_SECONDS = 600
    queued.claim()
    claimed = timezone.now() - timedelta(seconds=seconds)
    Run.objects.update(started_at=claimed, heartbeat_at=claimed)
    queued.refresh_from_db()
    assert supervise.report_progress(queued, exchange.run_folder(queued))
    tasks.rescue_runs()
    queued.refresh_from_db()
    assert queued.state == state


TWO_RANKS = "torchrun --standalone --nproc-per-node 2"


def test_many_ranks_behind_the_train_launcher(queued, settings):
    """Torchrun is found beside this Python whatever PATH says."""
    settings.CHILD_LAUNCHER, settings.TRAIN_LAUNCHER = "srun python", TWO_RANKS
    words = exchange.command(queued)
    assert words[0] == str(Path(sys.executable).with_name("torchrun"))
    assert words[1:6] == ["--standalone", "--nproc-per-node", "2", "-m", "reward.train"]
    settings.TRAIN_LAUNCHER = ""
    assert exchange.command(queued)[:4] == ["srun", "python", "-m", "reward.train"]


def test_a_launcher_that_there_is_not_ends_the_run_with_its_name(queued, settings):
    settings.TRAIN_LAUNCHER = "torchrunn --standalone"
    tasks.start_run(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed"
    assert queued.error.startswith("Its process could not be started: ")
    assert "No such file or directory: 'torchrunn'" in queued.error


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
