"""Doors to the domain for workers and beat: every task takes ids only and may run twice."""

from __future__ import annotations

import logging
from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from annotation_app import exchange, quality
from annotation_app.celery import send
from annotation_app.lifecycle import rounds, runs, training
from annotation_app.models import Annotation, Attempt, Batch, Criterion, Round, Run
from annotation_app.models.run import MOST_ATTEMPTS
from annotation_app.supervise import supervise

log = logging.getLogger(__name__)

UNHELD_SECONDS = 20


@shared_task
def start_run(run_id: int) -> None:
    """Take a queued run and see it through. A second delivery finds it taken and returns."""
    run = Run.objects.get(pk=run_id)
    if run.claim():
        supervise(run)


@shared_task
def expire_leases() -> None:
    Annotation.objects.expire()


@shared_task
def pause_annotators() -> None:
    """Pause those whose answers look like chance, until a reviewer has looked at them."""
    for who in quality.pause_who_answers_by_chance():
        log.warning("%s is paused: %s", who, who.paused_reason)


@shared_task
def turn_batches() -> None:
    """Close what is due or full, have finished what is closing, open the drafts that are filled."""
    for batch in Batch.objects.open():
        if batch.is_finished():
            batch.close()
    Annotation.objects.expire()
    for batch in Batch.objects.filter(state=Batch.State.CLOSING):
        send("finish_batch", batch.pk, expires=2 * settings.BEAT_SECONDS)
    for criterion in Criterion.values:
        open_next(criterion)


@shared_task
def finish_batch(batch_id: int) -> None:
    """A task of its own: what goes wrong with one batch keeps no other one from closing. Whoever
    comes while another is at it returns at once: writing a snapshot may take minutes."""
    closing = Batch.objects.filter(state=Batch.State.CLOSING)
    with transaction.atomic():
        free = closing.select_for_update(skip_locked=True, no_key=True)
        if (batch := free.filter(pk=batch_id).first()) is None:
            return
        training.finish_batch(batch)
    open_next(batch.criterion)


def open_next(criterion: str) -> None:
    """Open the oldest filled draft of each kind when none of this criterion is open or closing."""
    for kind in Batch.Kind.values:
        batches = Batch.objects.filter(criterion=criterion, kind=kind)
        if batches.filter(state__in=Batch.COLLECTING).exists():
            continue
        drafts = batches.filter(state=Batch.State.DRAFT, is_filled=True)
        drafts = drafts.exclude(kind=Batch.Kind.PREFERENCE, week__isnull=True)
        if (next_draft := drafts.order_by("week", "pk").first()) is not None:
            next_draft.open()


@shared_task
def rescue_runs() -> None:
    """Queue again what nobody works on: lost messages, dead workers, children without progress."""
    now = timezone.now()
    quiet = now - timedelta(seconds=UNHELD_SECONDS)
    for run in Run.objects.filter(state=Run.State.RUNNING, heartbeat_at__lt=quiet):
        stalled = Run.objects.stalled(now).filter(pk=run.pk).exists()
        if stalled or not exchange.run_folder(run).is_held():
            _start_again(run)
    for run in Run.objects.waiting().filter(queued_at__lt=now - timedelta(seconds=10)):
        send("start_run", run.pk, expires=2 * settings.BEAT_SECONDS)


def _start_again(run: Run) -> None:
    """Queue it once more; one that ends again and again waits for a person."""
    if run.has_tried_enough:
        runs.run_failed(
            run,
            f"{MOST_ATTEMPTS} times its process was gone, or made no progress for "
            f"RUN_HEARTBEAT_TIMEOUT_SECONDS ({settings.RUN_HEARTBEAT_TIMEOUT_SECONDS}). See its "
            "log, then go on or raise that number.",
        )
    else:
        log.warning("%s has no living process; it is queued again.", run)
        run.requeue()


@shared_task
def advance_rounds() -> None:
    """Queue the next stage of every round whose last one has ended."""
    for round_ in Round.objects.active():
        rounds.go_on(round_)


@shared_task
def finish_attempts() -> None:
    """Decide the attempts at qualifications whose time has run out."""
    Attempt.objects.all().finish_overdue()
