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

from annotation_app import exchange, exports, release_figures, side_by_side, snapshots
from annotation_app.celery import send
from annotation_app.models import (
    Batch,
    Checkpoint,
    Criterion,
    DemonstrationSet,
    Person,
    PromptSet,
    Release,
    Round,
    Run,
    Snapshot,
    Variant,
)
from annotation_app.models.refusals import CannotStart, WrongState
from annotation_app.models.run import Input
from rlhf_loop.config import TRAINING_STAGES
from rlhf_loop.prompts import Prompt as LoopPrompt
from rlhf_loop.round import STAGES, stages_of, trained_next

LONGEST_REASON = 120  # characters of why a comparison is never served

# --- batches and reward models -------------------------------------------------------------------


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
    config = exchange.round_settings()
    round_ = Round.objects.create(
        name=Round.next_name(),
        policy=_newest_chat_model(),
        helpfulness=helpfulness,
        safety=safety,
        prompt_set=PromptSet.objects.filter(is_for_rounds=True).latest("created_at"),
        config=config,
        demonstrations=_demonstrations(config),
        started_by=started_by,
    )
    advance(round_)
    return round_


def _demonstrations(config: Mapping[str, Any]) -> DemonstrationSet | None:
    """What was approved by now, frozen, where a round with these settings learns from it. Raises
    CannotStart where fine-tuning has nothing to learn from."""
    wanted = exchange.demonstrated_in(config)
    frozen = exports.freeze_demonstrations() if wanted else None
    named = config.get("sft", {}).get("data")
    if ("sft", "data") in wanted and frozen is None and not named:
        raise CannotStart(
            "Fine-tuning has nothing to learn from: approve demonstrations, or name its data in "
            "the round's settings."
        )
    return frozen


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
            **_further(round_, stage, policy),
        },
        round=round_,
    )


def _further(round_: Round, stage: str, policy: Checkpoint) -> Mapping[str, Input]:
    """What a stage is given beside what all are: rejection sampling the model that its fine-tuning
    begins at (section 3.2.3)."""
    if stage == STAGES[-1]:
        return measured_by(round_)
    found: dict[str, Input] = {}
    if stage == Run.Kind.REJECTION:
        found["start"] = policy.supervised()
    if round_.demonstrations is not None and stage in dict(exchange.demonstrated_in(round_.config)):
        found["demonstrations"] = round_.demonstrations
    return found


def measured_by(round_: Round) -> dict[str, Checkpoint | PromptSet]:
    """What a round's evaluation is given beside the round's own models and prompts: the newest
    independent reward model, one of helpfulness before one of safety, and the prompts to measure
    on. The round's own reward models are not independent of it."""
    own = [round_.helpfulness_id, round_.safety_id]
    outside = Checkpoint.objects.independent().exclude(pk__in=own).order_by("kind", "-pk").first()
    sets = PromptSet.objects.filter(is_for_measuring=True).exclude(pk=round_.prompt_set_id)
    return {
        **({"independent": outside} if outside is not None else {}),
        **{f"further_{n:03}": it for n, it in enumerate(sets.order_by("pk"), start=1)},
    }


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


# --- releases -------------------------------------------------------------------------------------


@transaction.atomic
def release_round(round_: Round, by: Person | None, reason: str = "") -> Release:
    """Put the round's chat model before annotators, and have the next drafts filled from it.

    The drafts hold one response of the new release and one of the previous. Raises WrongState, also
    for a round that is held back where no reason is given.
    """
    Release.objects.in_turn()
    round_.mark_released(reason)
    assert round_.result is not None, round_.pk
    release = Release.objects.create(
        checkpoint=round_.result, round=round_, released_by=by, reason=reason
    )
    Release.rest_older()
    for criterion in Criterion.values:
        queue_filling(Batch.draft_next(criterion, is_filled=False), round_.prompt_set)
    return release


@transaction.atomic
def roll_back(release: Release, by: Person | None, reason: str) -> None:
    """Annotators get no answer of this release any more; what they have before them they finish.

    Drafts that hold answers of it are filled anew from what is current then; a criterion without a
    draft gets one. Raises WrongState for the last one that answers.
    """
    release.withdraw(by, reason)
    for round_ in Round.objects.filter(result=release.checkpoint, state=Round.State.RELEASED):
        round_.mark_rolled_back()
    prompt_set = PromptSet.objects.filter(is_for_rounds=True).order_by("-created_at").first()
    if prompt_set is not None:
        emptied = _empty_drafts(release)
        for criterion in Criterion.values:
            _draft_anew(criterion, emptied, prompt_set)


def _empty_drafts(release: Release) -> list[Batch]:
    """The drafts that this release was to answer in, emptied; they are no longer filled by it."""
    fillings = Run.objects.filter(
        kind=Run.Kind.SAMPLING, inputs__checkpoint=release.checkpoint,
        batch__kind=Batch.Kind.PREFERENCE, batch__state=Batch.State.DRAFT,
    )  # fmt: skip
    found = list(fillings.order_by("pk"))
    for run in found:
        with suppress(WrongState):
            run.cancel()
    drafts = Batch.objects.filter(pk__in={run.batch_id for run in found}, state=Batch.State.DRAFT)
    emptied = list(drafts.order_by("pk").select_for_update())
    for draft in emptied:
        draft.empty(f"{release.checkpoint} was rolled back"[:LONGEST_REASON])
    return emptied


def _draft_anew(criterion: str, emptied: Sequence[Batch], prompt_set: PromptSet) -> None:
    """Fill the emptied drafts of a criterion, or a new one where it has none at all. Without
    prompts to fill it with there is none: nothing keeps a chat model from being rolled back."""
    own = [draft for draft in emptied if draft.criterion == criterion]
    waiting = Batch.objects.preference().filter(criterion=criterion, state=Batch.State.DRAFT)
    with suppress(CannotStart), transaction.atomic():
        if not waiting.exists():
            own = [Batch.draft_next(criterion, is_filled=False)]
        for draft in own:
            queue_filling(draft, prompt_set)


def queue_filling(batch: Batch, prompt_set: PromptSet) -> Run:
    """Sample fresh response pairs for a draft, from two variants that are drawn once."""
    first, second = Variant.pair()
    sampling = exchange.installed_settings("sampling")
    count = sampling.pop("comparisons", 1_000)
    asked = snapshots.prompts_for_batch(prompt_set, batch.criterion, count)
    if not asked:
        raise CannotStart(f"{prompt_set} has no {batch.criterion} prompts to fill {batch} with.")
    config = {
        **sampling,
        "temperature": [first.temperature, second.temperature],
        "top_p": first.top_p,
        "variants": [first.pk, second.pk],
    }
    models = (first.release.checkpoint, second.release.checkpoint)
    return _queue_sampling(batch, asked, models, config)


def _queue_sampling(
    batch: Batch,
    asked: Sequence[LoopPrompt],
    models: tuple[Checkpoint, Checkpoint],
    config: Mapping[str, Any],
    by: Person | None = None,
) -> Run:
    """Both models answer these prompts; what fills a draft for the second time is named so."""
    before = Run.objects.filter(batch=batch).count()
    name = f"{batch.name} #{batch.pk}" + (f", filling {before + 1}" if before else "")
    asked_set = snapshots.write_prompt_set(name, asked, is_for_rounds=False)
    return Run.queue(
        Run.Kind.SAMPLING,
        {"seed": batch.pk, **config},
        {"prompts": asked_set, "first": models[0], "second": models[1]},
        batch=batch,
        asked_by=by,
    )


@transaction.atomic
def compare_with_people(
    round_: Round, criterion: str, count: int, overlap: int, by: Person | None = None
) -> Batch:
    """A batch in which people judge the round's new chat model beside the previous one, on prompts
    that no one was asked before.

    Raises WrongState where there is one or there are no such models, CannotStart where there are
    fewer fresh prompts.
    """
    if round_.state not in Round.JUDGED_BY_PEOPLE or round_.result is None:
        words = round_.get_state_display().lower()
        raise WrongState(f"{round_} is {words}; people compare the models of an evaluated round.")
    batch = Batch.draft_side_by_side(round_, criterion, overlap)
    fresh = side_by_side.fresh_prompts(round_.prompt_set, criterion)
    if len(fresh) < count:
        raise CannotStart(
            f"Only {len(fresh)} {criterion} prompts of {round_.prompt_set} were never asked: "
            "choose fewer comparisons, or import prompts."
        )
    sampling = exchange.installed_settings("sampling")
    sampling.pop("comparisons", None)
    evaluate = round_.config.get("evaluate", {})
    as_measured = {name: evaluate[name] for name in ("temperature", "top_p") if name in evaluate}
    models = (round_.policy, round_.result)
    _queue_sampling(batch, fresh[:count], models, {**sampling, **as_measured}, by)
    return batch


@transaction.atomic
def hear_people(round_: Round) -> None:
    """What people said side by side joins the round's figures, and the gate judges again."""
    judged = Round.objects.select_for_update().get(pk=round_.pk)
    evaluation = {**judged.evaluation, "people": side_by_side.figures(judged)}
    gate = release_figures.verdict(judged.config, evaluation)
    judged.judge_again({**evaluation, "gate": gate._asdict()})


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
