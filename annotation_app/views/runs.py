"""Runs: live progress, log, cancel."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST
from django.views.decorators.vary import vary_on_headers

from annotation_app import exchange, figures
from annotation_app.access import researcher_required
from annotation_app.models import Run

MOST = 100
CURVES = {
    Run.Kind.REWARD_TRAINING: ("loss", "Training loss"),
    Run.Kind.PPO: ("objective/scores", "Combined score of the rollouts"),
}


@require_GET
@researcher_required
def runs(request: HttpRequest) -> HttpResponse:
    rows = Run.objects.select_related("round", "batch").order_by("-pk")[:MOST]
    return render(request, "runs/list.html", {"runs": rows})


@require_GET
@vary_on_headers("HX-Request")
@researcher_required
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """The whole page, or with htmx only its live part."""
    found = get_object_or_404(Run.objects.select_related("round", "batch"), pk=pk)
    context: dict[str, Any] = {"run": found, "inputs": found.inputs.select_related(
        "checkpoint", "snapshot", "prompt_set")}  # fmt: skip
    if request.headers.get("HX-Request"):
        live = render(request, "runs/_live.html", context)
        if not found.is_active:
            live.headers["HX-Refresh"] = "true"  # the buttons and figures beside it have changed
        return live
    if found.kind in CURVES:
        name, title = CURVES[Run.Kind(found.kind)]
        context["curve"] = figures.loss_curve(exchange.run_metrics(found), name, title)
    return render(request, "runs/detail.html", context)


@require_POST
@researcher_required
def cancel_run(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Run, pk=pk)
    found.cancel()
    messages.success(request, f"{found} is being cancelled.")
    return redirect("run", pk)


@require_POST
@researcher_required
def retry_run(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Run, pk=pk)
    found.retry()
    messages.success(request, f"{found} goes on from its last checkpoint.")
    return redirect("run", pk)
