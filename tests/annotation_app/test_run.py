"""Runs: who may take one, who may say that it is done, and what a dead worker leaves."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from annotation_app import exchange, tasks
from annotation_app.models import Run
from annotation_app.models.refusals import WrongState
from annotation_app.models.run import MOST_ATTEMPTS
from tests.annotation_app.rows import released_chat_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


def queued() -> Run:
    start = released_chat_model().checkpoint
    return Run.queue(Run.Kind.REWARD_TRAINING, {}, {"start": start}, criterion="helpfulness")


def test_it_works():
    run = queued()
    assert run.claim()
    assert (run.state, run.attempt) == ("running", 1)
    assert run.report(step=3, total_steps=9)
    assert run.succeed()
    assert Run.objects.get().state == "succeeded"


def test_a_run_is_taken_once():
    run = queued()
    other = Run.objects.get(pk=run.pk)
    assert run.claim()
    assert not other.claim()


def test_an_older_attempt_may_not_report_nor_end_the_run():
    run = queued()
    run.claim()
    older = Run.objects.get(pk=run.pk)
    run.requeue()
    newer = Run.objects.get(pk=run.pk)
    assert newer.claim()
    assert newer.attempt == 2
    assert not older.report(step=99)
    assert not older.succeed()
    assert not older.fail("the older one")
    newer.refresh_from_db()
    assert (newer.state, newer.step, newer.error) == ("running", 0, "")


def test_cancelling_a_queued_run_ends_it_at_once():
    run = queued()
    run.cancel()
    assert run.state == "cancelled"
    assert not run.claim()


def test_cancelling_a_running_run_asks_its_supervisor():
    run = queued()
    run.claim()
    run.cancel()
    assert (run.state, run.cancel_requested) == ("running", True)


def test_cancelling_a_finished_run_is_refused():
    run = queued()
    run.claim()
    run.succeed()
    with pytest.raises(WrongState, match="already succeeded"):
        run.cancel()


def test_a_run_without_a_living_process_is_queued_again():
    run = queued()
    run.claim()
    Run.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=60))
    tasks.rescue_runs()
    run.refresh_from_db()
    assert run.state == "queued"


def test_a_run_whose_process_lives_is_left_alone():
    run = queued()
    run.claim()
    Run.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=60))
    with exchange.run_folder(run).locked():
        tasks.rescue_runs()
    run.refresh_from_db()
    assert run.state == "running"


def test_a_living_process_without_progress_for_too_long_is_replaced(settings):
    settings.RUN_HEARTBEAT_TIMEOUT_SECONDS = 30
    run = queued()
    run.claim()
    Run.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=60))
    with exchange.run_folder(run).locked():
        tasks.rescue_runs()
    run.refresh_from_db()
    assert run.state == "queued"


def abandoned(run: Run) -> None:
    """An attempt of which nothing is left when beat looks."""
    assert run.claim()
    Run.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=60))
    tasks.rescue_runs()
    run.refresh_from_db()


def test_one_that_never_ends_waits_for_a_person_at_last(settings):
    settings.RUN_HEARTBEAT_TIMEOUT_SECONDS = 30
    run = queued()
    for _ in range(MOST_ATTEMPTS - 1):
        abandoned(run)
        assert run.state == "queued"
    abandoned(run)
    assert (run.state, run.attempt) == ("failed", MOST_ATTEMPTS)
    assert "made no progress for RUN_HEARTBEAT_TIMEOUT_SECONDS (30)" in run.error
    run.retry()
    for _ in range(MOST_ATTEMPTS - 1):
        abandoned(run)
        assert run.state == "queued"
    abandoned(run)
    assert (run.state, run.attempt) == ("failed", 2 * MOST_ATTEMPTS)


def test_an_error_that_no_database_stores_as_it_is():
    run = queued()
    run.claim()
    assert run.fail("half \ud83d of it, and \x00")
    assert Run.objects.get().error == "half \ufffd of it, and \ufffd"
