"""Rounds: what one starts from, which stage comes next, cancelling and going on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.db import transaction

from annotation_app import exchange, exports
from annotation_app.lifecycle.training import newest_chat_model
from annotation_app.models import (
    Checkpoint,
    Criterion,
    DemonstrationSet,
    Person,
    PromptSet,
    Release,
    Round,
    Run,
)
from annotation_app.models.refusals import CannotStart, Refusal, WrongState
from annotation_app.models.run import Input
from rlhf_loop.config import DATA_FILES, TRAINING_STAGES
from rlhf_loop.round import STAGES, stages_of

log = logging.getLogger(__name__)


def why_no_round() -> str:
    """Why a round cannot start now, or an empty string."""
    if Round.objects.active().exists():
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
    Release.objects.in_turn()  # of two clicks at once the second sees the first one's round
    if reason := why_no_round():
        raise CannotStart(reason)
    helpfulness = Checkpoint.objects.promoted(Criterion.HELPFULNESS)
    safety = Checkpoint.objects.promoted(Criterion.SAFETY)
    assert helpfulness is not None, reason
    assert safety is not None, reason
    config = exchange.round_settings()
    round_ = Round.objects.create(
        name=Round.next_name(),
        policy=newest_chat_model(),
        helpfulness=helpfulness,
        safety=safety,
        prompt_set=PromptSet.objects.filter(is_for_rounds=True).latest("created_at"),
        config=config,
        demonstrations=_demonstrations(config),
        started_by=started_by,
    )
    round_.measured_on.set(PromptSet.objects.to_measure_on().exclude(pk=round_.prompt_set_id))
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
    """Queue the stage after the last finished one, or finish a round that has none left; None
    when a stage is still at work.

    What is at work is read first: a stage that ends meanwhile is then done, and not begun again.
    """
    if round_.runs.active().exists():
        return None
    done = {run.kind: run for run in round_.runs.filter(state=Run.State.SUCCEEDED)}
    order = stages_of(round_.config)
    stage = next((s for s in order if s not in done), None)
    if stage is None:
        _finish(round_, done[order[-1]])
        return None
    if not round_.enter_stage(stage):
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
            **_further(round_, stage, policy, done),
        },
        round=round_,
    )


def go_on(round_: Round) -> Run | None:
    """``advance``; a round that cannot, for a damaged result or settings, fails and says why."""
    try:
        return advance(round_)
    except (Refusal, OSError, ValueError) as error:
        round_.refresh_from_db()  # a stage that it entered is undone
        log.exception("%s cannot go on.", round_)
        round_.fail(f"{round_} cannot go on after {round_.stage_label or 'its start'}: {error}")
        return None


def _finish(round_: Round, last: Run) -> None:
    """A round whose stages have all ended gets what the last one measured."""
    result = exchange.run_folder(last).result()
    if result is None:
        round_.fail(f"{last}: its result is gone from {last.storage_key}.")
    else:
        round_.finish(result)


def _further(
    round_: Round, stage: str, policy: Checkpoint, done: Mapping[str, Run]
) -> Mapping[str, Input]:
    """What a stage is given beside what all are: rejection sampling the model that its fine-tuning
    begins at (section 3.2.3), and the runs that built data for it."""
    if stage == STAGES[-1]:
        return measured_by(round_)
    found: dict[str, Input] = {}
    if stage == Run.Kind.REJECTION:
        found["start"] = policy.supervised()
        builders = [done[name] for name in DATA_FILES if name in done]
        found |= {f"data_{n}": run for n, run in enumerate(builders, start=1)}
    if round_.demonstrations is not None and stage in dict(exchange.demonstrated_in(round_.config)):
        found["demonstrations"] = round_.demonstrations
    return found


def measured_by(round_: Round) -> dict[str, Checkpoint | PromptSet]:
    """What a round's evaluation is given beside the round's own models and prompts: the newest
    independent reward model, one of helpfulness before one of safety, and the prompts to measure
    on. The round's own reward models are not independent of it."""
    own = [round_.helpfulness_id, round_.safety_id]
    outside = Checkpoint.objects.independent().exclude(pk__in=own).order_by("kind", "-pk").first()
    sets = round_.measured_on.order_by("pk")
    return {
        **({"independent": outside} if outside is not None else {}),
        **{f"further_{n:03}": it for n, it in enumerate(sets, start=1)},
    }


@transaction.atomic
def cancel_round(round_: Round) -> None:
    """Stop the stage at work; the round follows when its process is gone, at once where none is at
    work. Raises WrongState."""
    run = round_.runs.active().first()
    if run is not None:
        run.cancel()
        if run.state == Run.State.CANCELLED:
            round_.end_cancelled()
        return
    if not round_.end_cancelled():
        raise WrongState(f"{round_.name} is {round_.state}; only a running round is cancelled.")
    for begun in round_.runs.active():  # meanwhile, by beat
        begun.cancel()


@transaction.atomic
def retry_round(round_: Round) -> None:
    """Go on where a failed or cancelled round stopped. Raises WrongState, also while another one
    is at work."""
    Release.objects.in_turn()
    other = Round.objects.active().exclude(pk=round_.pk).first()
    if other is not None:
        raise WrongState(f"{other} is {other.state}; {round_} can go on when that has ended.")
    round_.resume()
    ended = round_.runs.filter(state__in=[Run.State.FAILED, Run.State.CANCELLED])
    run = ended.filter(kind=round_.stage).order_by("pk").last()
    if run is not None:
        run.retry()
    else:
        go_on(round_)
