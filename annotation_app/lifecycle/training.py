"""A closed batch asks for training; a reward model for its evaluation, scaling or judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from annotation_app import exchange, snapshots
from annotation_app.celery import send
from annotation_app.lifecycle.releases import hear_people
from annotation_app.models import (
    Batch,
    Checkpoint,
    Person,
    Release,
    Run,
    Snapshot,
)
from annotation_app.models.refusals import CannotStart


def close_batch(batch: Batch) -> None:
    """open → closing; a worker closes it when the last lease has ended. Raises WrongState."""
    batch.close()
    transaction.on_commit(lambda: send("turn_batches"))


@transaction.atomic
def finish_batch(batch: Batch) -> Run | None:
    """closing → closed, and reward training on everything collected so far; what people said side
    by side joins the figures of its round instead, and trains nothing.

    None while leases run, and when there is nothing to train on.
    """
    if not batch.finish_closing():
        return None
    if batch.round is not None:
        hear_people(batch.round)
        return None
    try:
        return _queue_reward_training(batch.criterion)
    except CannotStart:
        return None


def queue_reward_training(
    criterion: str,
    config: Mapping[str, Any] | None = None,
    *,
    start: Checkpoint | None = None,
    snapshot: Snapshot | None = None,
    by: Person | None = None,
    form_key: UUID | None = None,
) -> Run:
    """Train this criterion's reward model; what is not given is the newest there is.

    A form sent twice gives its one run. Raises CannotStart without a chat model or without pairs,
    and while such a run is waiting.
    """
    if (asked := Run.objects.asked_by_form(form_key)) is not None:
        return asked
    if Run.objects.waiting().filter(kind=Run.Kind.REWARD_TRAINING, criterion=criterion).exists():
        raise CannotStart(f"Training of the {criterion} reward model is queued already.")
    return _queue_reward_training(
        criterion, config, start=start, snapshot=snapshot, asked_by=by, form_key=form_key
    )


def _queue_reward_training(
    criterion: str,
    config: Mapping[str, Any] | None = None,
    *,
    start: Checkpoint | None = None,
    snapshot: Snapshot | None = None,
    **fields: Any,
) -> Run:
    """The same whatever waits. A closed batch always trains: what waits has an older snapshot."""
    installed = exchange.installed_settings("reward_training")
    start = start or newest_chat_model()
    return Run.queue(
        Run.Kind.REWARD_TRAINING,
        installed if config is None else config,
        {"start": start, "snapshot": snapshot or snapshots.write_snapshot(criterion)},
        criterion=criterion,
        **fields,
    )


def queue_independent_training(
    criterion: str, *, by: Person | None = None, form_key: UUID | None = None
) -> Run:
    """Train a reward model on imported comparisons only, from a chat model that was brought in: it
    judges rounds from outside (section 3.4.1).

    A form sent twice gives its one run. Raises CannotStart without either.
    """
    if (asked := Run.objects.asked_by_form(form_key)) is not None:
        return asked
    start = Checkpoint.objects.chat().filter(run=None).order_by("-pk").first()
    if start is None:
        raise CannotStart("No chat model was brought in: every one here learnt from annotators.")
    snapshot = snapshots.write_snapshot(criterion, imported_only=True)
    return queue_reward_training(
        criterion, start=start, snapshot=snapshot, by=by, form_key=form_key
    )


def queue_reward_evaluation(
    criterion: str,
    checkpoints: Sequence[Checkpoint],
    judgings: Sequence[Run] = (),
    *,
    by: Person | None = None,
    form_key: UUID | None = None,
) -> Run:
    """Measure reward models side by side on the newest held-out comparisons of a criterion; beside
    chat models on those that they have judged, the same ones all.

    A form sent twice gives its one run. Raises CannotStart without held-out comparisons.
    """
    if (asked := Run.objects.asked_by_form(form_key)) is not None:
        return asked
    snapshot = judgings[0].input("snapshot") if judgings else newest_holdout(criterion)
    models = {f"model_{number}": it for number, it in enumerate(checkpoints, start=1)}
    judges = {f"judge_{number}": it for number, it in enumerate(judgings, start=1)}
    return Run.queue(
        Run.Kind.REWARD_EVALUATION,
        {},
        {"snapshot": snapshot, **models, **judges},
        criterion=criterion,
        asked_by=by,
        form_key=form_key,
    )


def newest_holdout(criterion: str) -> Snapshot:
    """Raises CannotStart where nothing is held out."""
    snapshot = Snapshot.objects.with_holdout(criterion).first()
    if snapshot is None:
        raise CannotStart(
            f"No {criterion} comparison is held out yet: train a {criterion} reward model first."
        )
    return snapshot


def queue_scaling(
    snapshot: Snapshot,
    starts: Sequence[Checkpoint],
    config: Mapping[str, Any],
    *,
    by: Person | None = None,
    form_key: UUID | None = None,
) -> Run:
    """Train on more and more of a snapshot, from each of these chat models; a form sent twice gives
    its one run. Raises CannotStart where there are no batches to grow by."""
    if (asked := Run.objects.asked_by_form(form_key)) is not None:
        return asked
    if not config.get("shares") and snapshot.trained_batches() < 2:
        raise CannotStart(
            f"Fewer than two batches of {snapshot.criterion} were collected: grow by shares of the "
            "dialogues."
        )
    return Run.queue(
        Run.Kind.REWARD_SCALING,
        config,
        {"snapshot": snapshot, **{f"start_{n}": it for n, it in enumerate(starts, start=1)}},
        criterion=snapshot.criterion,
        asked_by=by,
        form_key=form_key,
    )


def queue_judging(criterion: str, *, by: Person | None = None, form_key: UUID | None = None) -> Run:
    """Have the configured chat model judge the newest held-out comparisons of a criterion.

    A form sent twice gives its one run. Raises CannotStart without held-out comparisons, without a
    judge, and while it judges them.
    """
    if (asked := Run.objects.asked_by_form(form_key)) is not None:
        return asked
    if not settings.JUDGE_URL:
        raise CannotStart("No judge is configured: set JUDGE_URL and JUDGE_MODEL.")
    judging = Run.objects.active().filter(kind=Run.Kind.REWARD_JUDGING, criterion=criterion)
    if judging.exists():
        raise CannotStart(f"The held-out comparisons of {criterion} are being judged already.")
    installed = exchange.installed_settings("reward_judging")
    config = {**installed, "address": settings.JUDGE_URL, "model": settings.JUDGE_MODEL}
    return Run.queue(
        Run.Kind.REWARD_JUDGING,
        config,
        {"snapshot": newest_holdout(criterion)},
        criterion=criterion,
        asked_by=by,
        form_key=form_key,
    )


def evaluate_beside_judge(judging: Run) -> None:
    """What a chat model has judged, beside the reward model in force or else the newest one."""
    models = Checkpoint.objects.of(judging.criterion).order_by("-pk")
    model = Checkpoint.objects.promoted(judging.criterion) or models.first()
    if settings.EVALUATE_AFTER_TRAINING and model is not None:
        queue_reward_evaluation(judging.criterion, [model], [judging])


def evaluate_beside_promoted(trained: Checkpoint) -> None:
    """Old reward models meet the new comparisons: that is where drift shows."""
    older = Checkpoint.objects.of(trained.criterion).exclude(pk=trained.pk).order_by("-pk")
    other = Checkpoint.objects.promoted(trained.criterion) or older.first()
    if settings.EVALUATE_AFTER_TRAINING and other is not None:
        with suppress(CannotStart):
            queue_reward_evaluation(trained.criterion, [other, trained])


def newest_chat_model() -> Checkpoint:
    release = Release.objects.current().select_related("checkpoint").first()
    if release is None:
        raise CannotStart("No chat model is released: there is nothing to start from.")
    return release.checkpoint
