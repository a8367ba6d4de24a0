"""Rounds: start, watch the stages, compare before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST
from django.views.decorators.vary import vary_on_headers

from annotation_app import figures, lifecycle
from annotation_app.access import person, researcher_required
from annotation_app.models import Round, Run
from rlhf_loop.round import stages_of

SCORES = ("helpfulness", "safety", "combined")
GROUPS = (
    ("all", "all prompts"),
    ("helpfulness_prompts", "helpfulness prompts"),
    ("borderline_prompts", "borderline prompts"),
    ("safety_prompts", "safety prompts"),
)


@require_GET
@researcher_required
def rounds(request: HttpRequest) -> HttpResponse:
    context = {"rounds": Round.objects.order_by("-pk"), "why_not": lifecycle.why_no_round()}
    return render(request, "rounds/list.html", context)


@require_GET
@vary_on_headers("HX-Request")
@researcher_required
def round_(request: HttpRequest, pk: int) -> HttpResponse:
    """The whole page, or with htmx only its live part."""
    found = get_object_or_404(
        Round.objects.select_related("policy", "helpfulness", "safety", "result"), pk=pk
    )
    runs = {run.kind: run for run in found.runs.order_by("pk")}
    stages = [(Run.Kind(stage).label, runs.get(stage)) for stage in stages_of(found.config)]
    context = {"round": found, "stages": stages}
    if request.headers.get("HX-Request"):
        live = render(request, "rounds/_live.html", context)
        if not found.is_active:
            live.headers["HX-Refresh"] = "true"  # the buttons and figures beside it have changed
        return live
    scores = score_rows(found.evaluation)
    context |= {"scores": scores, "samples": found.evaluation.get("samples", [])}
    context["gate"] = found.evaluation.get("gate")
    if scores:
        context["figure"] = figures.before_and_after(scores)
        context["difference"] = figures.differences(scores)
    return render(request, "rounds/detail.html", context)


def score_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Before, after and the paired difference, a row for each score on each group of prompts."""
    return [
        {"name": f"{score}, {label}", "count": group["count"], **group[score]}
        for key, label in GROUPS
        if (group := evaluation.get(key)) is not None
        for score in SCORES
    ]


@require_POST
@researcher_required
def start_round(request: HttpRequest) -> HttpResponse:
    started = lifecycle.start_round(person(request))
    messages.success(request, f"{started} has started.")
    return redirect("round", started.pk)


def _acting(act: Callable[[Round], None], sentence: str) -> Callable[..., HttpResponseBase]:
    @require_POST
    @researcher_required
    def view(request: HttpRequest, pk: int) -> HttpResponse:
        found = get_object_or_404(Round, pk=pk)
        act(found)
        messages.success(request, f"{found} {sentence}")
        return redirect("round", pk)

    return view


cancel_round = _acting(lifecycle.cancel_round, "is being cancelled.")
retry_round = _acting(lifecycle.retry_round, "goes on where it stopped.")
