"""Releases of chat models: one put before annotators, held back or rolled back, and the grounds.

The release gate holds a round back that it does not pass. To release it all the same, or to roll a
release back, takes a reason, which stays in the history.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app import exchange, release_figures, side_by_side
from annotation_app.access import person, researcher_required
from annotation_app.forms import ReleaseForm, RollBackForm, SideBySideForm
from annotation_app.lifecycle import releases, training
from annotation_app.models import (
    Checkpoint,
    Comparison,
    Criterion,
    PromptSet,
    Release,
    Round,
    Run,
)
from annotation_app.models.refusals import CannotStart, Refusal
from annotation_app.views.rewards import queued_by_one_click

NEWEST = 100
SIZES = (50, 100, 200, 400, 800)
USUAL_SIZE = 200


@require_GET
@researcher_required
def history(request: HttpRequest) -> HttpResponse:
    """The history of releases and roll-backs, and what the next round is measured by."""
    rows = list(Release.objects.history()[:NEWEST])
    answering = sum(row.withdrawn_at is None and row.weight > 0 for row in rows)
    page = {"releases": rows, "answering": answering, **_measures()}
    return render(request, "releases/list.html", page)


def _measures() -> dict[str, Any]:
    """What an evaluation would be given now, or the sentence that keeps a round from starting."""
    trainings = Run.objects.active().filter(kind=Run.Kind.REWARD_TRAINING)
    page: dict[str, Any] = {
        "independent": Checkpoint.objects.independent().select_related("run").first(),
        "training": trainings.filter(inputs__snapshot__counts__collected=0).first(),
        "prompt_set": PromptSet.objects.filter(is_for_rounds=True).order_by("-created_at").first(),
        "further": PromptSet.objects.to_measure_on().order_by("pk"),
        "criteria": Criterion,
    }
    try:
        round_settings = exchange.round_settings()
    except CannotStart as refusal:
        return {**page, "refusal": refusal}
    evaluate = round_settings.get("evaluate", {})
    tasks = [str(file).rpartition("/")[2] for file in evaluate.get("tasks", [])]
    gate = release_figures.thresholds(round_settings)
    return {**page, "judge": evaluate.get("judge_model"), "tasks": tasks, "gate": gate}


@require_POST
@researcher_required
def train_independent(request: HttpRequest) -> HttpResponse:
    """A reward model that learns from imported comparisons only."""
    sentence = "{} is queued: it learns from imported comparisons only."
    return queued_by_one_click(request, training.queue_independent_training, sentence)


# --- a round's model ------------------------------------------------------------------------------


@require_GET
@never_cache
@researcher_required
def releasing(request: HttpRequest, pk: int) -> HttpResponse:
    """What speaks against releasing this round's model, and room for why it is done anyway."""
    found = get_object_or_404(Round.objects.select_related("result", "held_by"), pk=pk)
    return _releasing(request, found, ReleaseForm(needs_reason=_needs_reason(found)))


def _needs_reason(round_: Round) -> bool:
    return round_.state in Round.NEEDS_REASON


def _releasing(
    request: HttpRequest, round_: Round, form: ReleaseForm, refusal: str = "", status: int = 200
) -> HttpResponse:
    may_be = (Round.State.EVALUATED, *Round.NEEDS_REASON)
    page = {
        "round": round_,
        "form": form,
        "refusal": refusal,
        "may_be_released": round_.state in may_be,
        "standing": release_figures.standing(round_),
    }
    return render(request, "releases/release.html", page, status=status)


@require_POST
@researcher_required
def release_round(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Round.objects.select_related("result", "held_by"), pk=pk)
    form = ReleaseForm(request.POST, needs_reason=_needs_reason(found))
    if not form.is_valid():
        return _releasing(request, found, form, status=400)
    try:
        releases.release_round(found, person(request), form.cleaned_data["reason"])
    except Refusal as refusal:
        found.refresh_from_db()
        return _releasing(request, found, form, str(refusal), status=refusal.status)
    sentence = f"{found} is released; the next batches are being filled from it."
    messages.success(request, f"{sentence}{_without_draft()}")
    return redirect("round", pk)


@require_POST
@researcher_required
def hold_round(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Round, pk=pk)
    found.hold(person(request))
    messages.success(request, f"{found} is held back.")
    return redirect("round", pk)


# --- and back -------------------------------------------------------------------------------------


@require_GET
@never_cache
@researcher_required
def rolling_back_release(request: HttpRequest, pk: int) -> HttpResponse:
    """What would answer without this release."""
    return _rolling_back(request, _release(pk), RollBackForm())


def _release(pk: int) -> Release:
    return get_object_or_404(Release.objects.history(), pk=pk)


def _rolling_back(
    request: HttpRequest, release: Release, form: RollBackForm, refusal: str = "", status: int = 200
) -> HttpResponse:
    others = release.answering_without()
    held = Comparison.objects.still_asked(release.checkpoint)
    page = {
        "release": release,
        "form": form,
        "refusal": refusal,
        "others": others,
        "held": held.values_list("batch", "batch__name").annotate(n=Count("pk")).order_by("batch"),
    }
    return render(request, "releases/roll_back.html", page, status=status)


@require_POST
@researcher_required
def roll_back_release(request: HttpRequest, pk: int) -> HttpResponse:
    found, form = _release(pk), RollBackForm(request.POST)
    if not form.is_valid():
        return _rolling_back(request, found, form, status=400)
    try:
        releases.roll_back(found, person(request), form.cleaned_data["reason"])
    except Refusal as refusal:
        found.refresh_from_db()
        return _rolling_back(request, found, form, str(refusal), status=refusal.status)
    sentence = f"{found.checkpoint} is rolled back; the next batches are filled without it."
    messages.success(request, f"{sentence}{_without_draft()}")
    return redirect("releases")


def _without_draft() -> str:
    """Which criteria get no next batch, or ""."""
    missing = " and no ".join(releases.without_draft())
    return f" There is no {missing} batch among them: no prompts of it." if missing else ""


# --- people compare -------------------------------------------------------------------------------


@require_GET
@never_cache
@researcher_required
def comparing(request: HttpRequest, pk: int) -> HttpResponse:
    """Order a batch in which people judge a round's new chat model beside the previous one."""
    form = SideBySideForm(initial={"count": USUAL_SIZE, "overlap": settings.OVERLAP})
    return _comparing(request, get_object_or_404(Round, pk=pk), form)


def _comparing(
    request: HttpRequest, round_: Round, form: SideBySideForm, refusal: str = "", status: int = 200
) -> HttpResponse:
    fresh = {c: side_by_side.fresh_prompts(round_.prompt_set, c) for c in Criterion.values}
    page = {
        "round": round_,
        "form": form,
        "refusal": refusal,
        "may_be_compared": round_.state in Round.JUDGED_BY_PEOPLE and round_.result_id,
        "batches": {batch.criterion: batch for batch in round_.side_by_sides.all()},
        "fresh": [(c, len(found), _held_out(found)) for c, found in fresh.items()],
        "widths": [(size, 100 * side_by_side.expected_half_width(size)) for size in SIZES],
    }
    return render(request, "releases/compare.html", page, status=status)


def _held_out(prompts: list[Any]) -> int:
    return sum(prompt.split != "train" for prompt in prompts)


@require_POST
@researcher_required
def compare_round(request: HttpRequest, pk: int) -> HttpResponse:
    found, form = get_object_or_404(Round, pk=pk), SideBySideForm(request.POST)
    if not form.is_valid():
        return _comparing(request, found, form, status=400)
    try:
        batch = releases.compare_with_people(found, by=person(request), **form.cleaned_data)
    except Refusal as refusal:
        found.refresh_from_db()
        return _comparing(request, found, form, str(refusal), status=refusal.status)
    messages.success(request, f"{batch} is being filled; it opens by itself.")
    return redirect("round", pk)
