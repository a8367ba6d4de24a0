"""The end of a run: what it made is stored, and what follows from it is queued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from annotation_app import exchange
from annotation_app.celery import send
from annotation_app.lifecycle.training import evaluate_beside_judge, evaluate_beside_promoted
from annotation_app.models import (
    Batch,
    Round,
    Run,
    Variant,
)
from rlhf_loop.round import STAGES, trained_next


@transaction.atomic
def run_succeeded(run: Run, result: Mapping[str, Any]) -> bool:
    """Store what a finished run made and queue what follows; False for an older attempt."""
    if not run.succeed():
        return False
    if run.kind == Run.Kind.REWARD_JUDGING:  # its result names the judge as its model
        evaluate_beside_judge(run)
    elif "model" in result:
        checkpoint = exchange.record_checkpoint(run, result)
        if run.round is not None and trained_next(run.kind, run.round.config) is None:
            Round.objects.filter(pk=run.round.pk).update(result=checkpoint)
        if run.kind == Run.Kind.REWARD_TRAINING:
            evaluate_beside_promoted(checkpoint)
    if run.kind == Run.Kind.SAMPLING and run.batch is not None:
        _fill(Batch.objects.select_for_update().get(pk=run.batch.pk), run)
    if run.round is not None:
        round_ = Round.objects.get(pk=run.round.pk)
        if run.kind == STAGES[-1]:
            round_.finish(dict(result))
        else:
            transaction.on_commit(lambda: send("advance_rounds"))
    return True


def _fill(batch: Batch, run: Run) -> None:
    """A draft gets the comparisons that were sampled for it, but for answers of a release that was
    rolled back meanwhile: another run fills it then."""
    rows = Variant.objects.select_related("release__checkpoint")
    variants = [rows.get(pk=pk) for pk in run.config.get("variants", [])]
    if all(variant.release.withdrawn_at is None for variant in variants):
        exchange.fill_batch(batch, run, variants)
        batch.fill()


@transaction.atomic
def run_failed(run: Run, error: str) -> None:
    """A run ended without a result; its round ends with the same sentence."""
    if run.fail(error) and run.round is not None:
        run.round.fail(f"{run}: {error}")


@transaction.atomic
def run_cancelled(run: Run) -> None:
    if run.end_cancelled() and run.round is not None:
        run.round.end_cancelled()
