"""What more comparisons bring: from the reward models that there are, and by training anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app import exchange, measuring
from annotation_app.access import known_criterion, person, researcher_required
from annotation_app.forms import MOST_COMPARED, ScalingForm, ScalingViewForm
from annotation_app.lifecycle import training
from annotation_app.models import Checkpoint, Criterion, Release, Run
from annotation_app.models.refusals import CannotStart
from annotation_app.scaling_figures import (
    evaluations,
    of_reward_models,
    of_run,
    scaling_tables,
    sentences,
)
from annotation_app.tables import Table, named

NEWEST = 20


@require_GET
@never_cache
@researcher_required
def scaling(request: HttpRequest) -> HttpResponse:
    """The points of the reward models that there are; what was trained anew."""
    form = ScalingViewForm(request.GET)
    asked = form.cleaned_data if form.is_valid() else {}
    criterion = asked.get("criterion") or Criterion.HELPFULNESS
    done = evaluations(criterion)
    of = asked.get("of") or next(iter(done), None)
    result = of_reward_models(of, asked.get("next") or 0) if of else None
    different = Checkpoint.objects.trained_on_different_data(criterion)
    page: dict[str, Any] = {
        "form": form,
        "criterion": criterion,
        "criteria": Criterion,
        "evaluations": done,
        "of": of,
        "next": asked.get("next") or "",
        "result": result,
        "points": sum(len(model["points"]) for model in result["models"]) if result else 0,
        "sentences": sentences(result) if result else [],
        "tables": _tables(result),
        "query": _query(criterion, of, asked.get("next")),
        "different": different,
        "comparable": spread(different, MOST_COMPARED),
        "runs": Run.objects.filter(kind=Run.Kind.REWARD_SCALING).order_by("-pk")[:NEWEST],
    }
    return render(request, "rewards/scaling.html", page, status=200 if form.is_valid() else 400)


def spread(models: Sequence[Checkpoint], most: int) -> list[Checkpoint]:
    """So many of them at most, evenly from the first to the last."""
    if len(models) <= most:
        return list(models)
    return [models[round(n * (len(models) - 1) / (most - 1))] for n in range(most)]


def _tables(result: dict[str, Any] | None) -> list[Table]:
    return scaling_tables(result) if result else []


def _query(criterion: str, of: Run | None, next_pairs: int | None) -> str:
    given = {"criterion": criterion, "of": of.pk if of else "", "next": next_pairs or ""}
    return f"?{urlencode(given)}"


@require_GET
@never_cache
@researcher_required
def scaling_table(request: HttpRequest, name: str) -> HttpResponse:
    """The table of this name as CSV. Raises Http404."""
    form = ScalingViewForm(request.GET)
    if not form.is_valid() or form.cleaned_data["of"] is None:
        raise Http404
    result = of_reward_models(form.cleaned_data["of"], form.cleaned_data["next"] or 0)
    return named(_tables(result), name).csv()


# --- trained anew --------------------------------------------------------------------------------


@require_GET
@never_cache
@researcher_required
def new_scaling(request: HttpRequest, criterion: str) -> HttpResponse:
    released = Release.objects.current().first()
    form = ScalingForm(
        known_criterion(criterion),
        installed=exchange.installed_settings("reward_training"),
        initial={"starts": [released.checkpoint_id] if released else []},
    )
    return _form_page(request, criterion, form)


def _form_page(
    request: HttpRequest, criterion: str, form: ScalingForm, refusal: str = "", status: int = 200
) -> HttpResponse:
    page = {"criterion": criterion, "form": form, "refusal": refusal}
    return render(request, "rewards/new_scaling.html", page, status=status)


@require_POST
@researcher_required
def start_scaling(request: HttpRequest, criterion: str) -> HttpResponse:
    """Queue the trainings that the form describes; sent twice they are one run."""
    installed = exchange.installed_settings("reward_training")
    form = ScalingForm(known_criterion(criterion), request.POST, installed=installed)
    if not form.is_valid():
        return _form_page(request, criterion, form, status=400)
    given = form.cleaned_data
    try:
        run = training.queue_scaling(
            given["snapshot"], given["starts"], given["config"],
            by=person(request), form_key=given["form_key"],
        )  # fmt: skip
    except CannotStart as refusal:
        return _form_page(request, criterion, form, str(refusal), 409)
    messages.success(request, f"{run} is queued.")
    return redirect("run", run.pk)


def _found(pk: int) -> tuple[Run, dict[str, Any] | None]:
    """A scaling run and its result, None while there is none. Raises Http404."""
    found = get_object_or_404(Run, pk=pk, kind=Run.Kind.REWARD_SCALING)
    return found, of_run(found)


@require_GET
@never_cache
@researcher_required
def scaling_run(request: HttpRequest, pk: int) -> HttpResponse:
    found, result = _found(pk)
    page = {
        "run": found,
        "result": result,
        "snapshot": found.input("snapshot"),
        "starts": measuring.starts(found),
        "sentences": sentences(result) if result else [],
        "tables": _tables(result),
    }
    return render(request, "rewards/scaling_run.html", page)


@require_GET
@never_cache
@researcher_required
def scaling_run_table(request: HttpRequest, pk: int, name: str) -> HttpResponse:
    """The table of this name as CSV. Raises Http404."""
    return named(_tables(_found(pk)[1]), name).csv()
