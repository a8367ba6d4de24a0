"""What follows from what: a closed batch asks for training, a finished stage for the next one.

Each step is one transaction, so a process that dies between two steps leaves a row that says what
is still to do; the periodic tasks take it from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from annotation_app import exchange, snapshots
from annotation_app.celery import send
from annotation_app.models import (
    Batch,
    Checkpoint,
    Criterion,
    Person,
    PromptSet,
    Release,
    Round,
    Run,
    Snapshot,
    Variant,
)
from annotation_app.models.refusals import CannotStart, WrongState
from rlhf_loop.config import TRAINING_STAGES
from rlhf_loop.round import STAGES, stages_of, trained_next

# --- batches and reward models -------------------------------------------------------------------


def close_batch(batch: Batch) -> None:
    """open → closing; a worker closes it when the last lease has ended. Raises WrongState."""
    batch.close()
    transaction.on_commit(lambda: send("turn_batches"))


@transaction.atomic
def finish_batch(batch: Batch) -> Run | None:
    """closing → closed, and reward training on everything collected so far.

    None while leases run, and when there is nothing to train on.
    """
    if not batch.finish_closing():
        return None
    try:
        return queue_reward_training(batch.criterion)
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
    installed = exchange.installed_settings("reward_training")
    start = start or _newest_chat_model()
    return Run.queue(
        Run.Kind.REWARD_TRAINING,
        installed if config is None else config,
        {"start": start, "snapshot": snapshot or snapshots.write_snapshot(criterion)},
        criterion=criterion,
        asked_by=by,
        form_key=form_key,
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


def _evaluate_beside_judge(judging: Run) -> None:
    """What a chat model has judged, beside the reward model in force or else the newest one."""
    models = Checkpoint.objects.of(judging.criterion).order_by("-pk")
    model = Checkpoint.objects.promoted(judging.criterion) or models.first()
    if settings.EVALUATE_AFTER_TRAINING and model is not None:
        queue_reward_evaluation(judging.criterion, [model], [judging])


def _evaluate_beside_promoted(trained: Checkpoint) -> None:
    """Old reward models meet the new comparisons: that is where drift shows."""
    older = Checkpoint.objects.of(trained.criterion).exclude(pk=trained.pk).order_by("-pk")
    other = Checkpoint.objects.promoted(trained.criterion) or older.first()
    if settings.EVALUATE_AFTER_TRAINING and other is not None:
        with suppress(CannotStart):
            queue_reward_evaluation(trained.criterion, [other, trained])


def _newest_chat_model() -> Checkpoint:
    release = Release.objects.current().select_related("checkpoint").first()
    if release is None:
        raise CannotStart("No chat model is released: there is nothing to start from.")
    return release.checkpoint


# --- rounds --------------------------------------------------------------------------------------


def why_no_round() -> str:
    """Why a round cannot start now, or an empty string."""
    if Round.objects.filter(state__in=[Round.State.QUEUED, Round.State.RUNNING]).exists():
        return "A round is running."
    for criterion in Criterion.values:
        if Checkpoint.objects.promoted(criterion) is None:
            return f"No {criterion} reward model is promoted."
    if not PromptSet.objects.filter(is_for_rounds=True).exists():
        return "There is no prompt set."
    return "" if Release.objects.current().exists() else "No chat model is released."


@transaction.atomic
def start_round(started_by: Person | None) -> Round:
    """A round from the newest released chat model and the promoted reward models.

    Raises CannotStart naming what is missing.
    """
    if reason := why_no_round():
        raise CannotStart(reason)
    helpfulness = Checkpoint.objects.promoted(Criterion.HELPFULNESS)
    safety = Checkpoint.objects.promoted(Criterion.SAFETY)
    assert helpfulness is not None, reason
    assert safety is not None, reason
    round_ = Round.objects.create(
        name=Round.next_name(),
        policy=_newest_chat_model(),
        helpfulness=helpfulness,
        safety=safety,
        prompt_set=PromptSet.objects.filter(is_for_rounds=True).latest("created_at"),
        config=exchange.round_settings(),
        started_by=started_by,
    )
    advance(round_)
    return round_


@transaction.atomic
def advance(round_: Round) -> Run | None:
    """Queue the stage after the last finished one; None when a stage is still at work."""
    done = {run.kind: run for run in round_.runs.filter(state=Run.State.SUCCEEDED)}
    order = stages_of(round_.config)
    stage = next((s for s in order if s not in done), None)
    if stage is None or round_.runs.active().exists() or not round_.enter_stage(stage):
        return None
    trained = [done[s] for s in order[: order.index(stage)] if s in TRAINING_STAGES]
    policy = trained[-1].checkpoint if trained else round_.policy
    return Run.queue(
        stage,
        round_.config,
        {
            "policy": policy,
            "round_policy": round_.policy,
            "helpfulness": round_.helpfulness,
            "safety": round_.safety,
            "prompts": round_.prompt_set,
        },
        round=round_,
    )


def cancel_round(round_: Round) -> None:
    """Stop the stage at work; the round follows when its process is gone. Raises WrongState."""
    run = round_.runs.active().first()
    if run is None:
        raise WrongState(f"{round_.name} is {round_.state}; no stage of it is running.")
    run.cancel()
    if run.state == Run.State.CANCELLED:
        round_.end_cancelled()


@transaction.atomic
def retry_round(round_: Round) -> None:
    """Go on where a failed or cancelled round stopped. Raises WrongState."""
    round_.resume()
    run = round_.runs.filter(state__in=[Run.State.FAILED, Run.State.CANCELLED]).last()
    if run is not None:
        run.retry()
    else:
        advance(round_)


@transaction.atomic
def release_round(round_: Round, by: Person | None) -> Release:
    """Put the round's chat model before annotators, and have the next drafts filled from it.

    The drafts hold one response of the new release and one of the previous. Raises WrongState.
    """
    round_.mark_released()
    assert round_.result is not None, round_.pk
    release = Release.objects.create(checkpoint=round_.result, released_by=by)
    Release.rest_older()
    for criterion in Criterion.values:
        queue_filling(Batch.draft_next(criterion, is_filled=False), round_.prompt_set)
    return release


def queue_filling(batch: Batch, prompt_set: PromptSet) -> Run:
    """Sample fresh response pairs for a draft, from two variants that are drawn once."""
    first, second = Variant.pair()
    sampling = exchange.installed_settings("sampling")
    count = sampling.pop("comparisons", 1_000)
    asked = snapshots.prompts_for_batch(prompt_set, batch.criterion, count)
    if not asked:
        raise CannotStart(f"{prompt_set} has no {batch.criterion} prompts to fill {batch} with.")
    asked_set = snapshots.write_prompt_set(f"{batch.name} #{batch.pk}", asked, is_for_rounds=False)
    config = {
        **sampling,
        "temperature": [first.temperature, second.temperature],
        "top_p": first.top_p,
        "seed": batch.pk,
        "variants": [first.pk, second.pk],
    }
    return Run.queue(
        Run.Kind.SAMPLING,
        config,
        {
            "prompts": asked_set,
            "first": first.release.checkpoint,
            "second": second.release.checkpoint,
        },
        batch=batch,
    )


# --- the end of a run ----------------------------------------------------------------------------


@transaction.atomic
def run_succeeded(run: Run, result: Mapping[str, Any]) -> bool:
    """Store what a finished run made and queue what follows; False for an older attempt."""
    if not run.succeed():
        return False
    if run.kind == Run.Kind.REWARD_JUDGING:  # its result names the judge as its model
        _evaluate_beside_judge(run)
    elif "model" in result:
        checkpoint = exchange.record_checkpoint(run, result)
        if run.round is not None and trained_next(run.kind, run.round.config) is None:
            Round.objects.filter(pk=run.round.pk).update(result=checkpoint)
        if run.kind == Run.Kind.REWARD_TRAINING:
            _evaluate_beside_promoted(checkpoint)
    if run.kind == Run.Kind.SAMPLING and run.batch is not None:
        variants = [Variant.objects.get(pk=pk) for pk in run.config["variants"]]
        exchange.fill_batch(run.batch, run, (variants[0], variants[1]))
        run.batch.fill()
    if run.round is not None:
        round_ = Round.objects.get(pk=run.round.pk)
        if run.kind == STAGES[-1]:
            round_.finish(dict(result))
        else:
            transaction.on_commit(lambda: send("advance_rounds"))
    return True


@transaction.atomic
def run_failed(run: Run, error: str) -> None:
    """A run ended without a result; its round ends with the same sentence."""
    if run.fail(error) and run.round is not None:
        run.round.fail(f"{run}: {error}")


@transaction.atomic
def run_cancelled(run: Run) -> None:
    if run.end_cancelled() and run.round is not None:
        run.round.end_cancelled()
