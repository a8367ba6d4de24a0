"""A release fills the next drafts, a roll-back empties them; people compare new with previous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.db import transaction

from annotation_app import exchange, release_figures, side_by_side, snapshots
from annotation_app.models import (
    Batch,
    Checkpoint,
    Criterion,
    Person,
    PromptSet,
    Release,
    Round,
    Run,
    Variant,
)
from annotation_app.models.refusals import CannotStart, WrongState
from rlhf_loop.prompts import Prompt as LoopPrompt

LONGEST_REASON = 120  # characters of why a comparison is never served


@transaction.atomic
def release_round(round_: Round, by: Person | None, reason: str = "") -> Release:
    """Put the round's chat model before annotators, and have the next drafts filled from it.

    The drafts hold one response of the new release and one of the previous; a criterion that has no
    prompts gets none. Raises WrongState, also for a round that is held back where no reason is
    given.
    """
    Release.objects.in_turn()
    round_.mark_released(reason)
    assert round_.result is not None, round_.pk
    release = Release.objects.create(
        checkpoint=round_.result, round=round_, released_by=by, reason=reason
    )
    Release.rest_older()
    for criterion in Criterion.values:
        with suppress(CannotStart), transaction.atomic():  # no prompts of it: no draft of it
            queue_filling(Batch.draft_next(criterion, is_filled=False), round_.prompt_set)
    return release


@transaction.atomic
def roll_back(release: Release, by: Person | None, reason: str) -> None:
    """This release answers no prompt any more. Open batches go on serving the answers of it that
    they hold, and what annotators have before them they finish.

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


def without_draft() -> list[str]:
    """The criteria that have no next batch, for want of prompts of them."""
    drafts = Batch.objects.preference().filter(state=Batch.State.DRAFT)
    return sorted(set(Criterion.values) - set(drafts.values_list("criterion", flat=True)))


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
    # Two orders draw one after the other, so that no prompt is in both.
    PromptSet.objects.select_for_update().get(pk=round_.prompt_set_id)
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
