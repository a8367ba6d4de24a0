"""Runs: live progress, log, cancel."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django.views.decorators.vary import vary_on_headers

from annotation_app import curves, exchange
from annotation_app.access import researcher_required
from annotation_app.forms import differences
from annotation_app.lifecycle import rounds
from annotation_app.models import Checkpoint, Run, RunInput
from annotation_app.models.refusals import WrongState
from annotation_app.tables import csv_file
from rlhf_loop.round import stages_of

MOST = 100
FIGURES_AT: dict[str, str] = {
    Run.Kind.REWARD_EVALUATION: "reward_evaluation",
    Run.Kind.REWARD_SCALING: "scaling_run",
    Run.Kind.REWARD_JUDGING: "judging",
}


@require_GET
@researcher_required
def runs(request: HttpRequest) -> HttpResponse:
    rows = Run.objects.select_related("round", "batch").order_by("-pk")
    newest = rows.defer("round__evaluation", "round__config")[:MOST]
    return render(request, "runs/list.html", {"runs": newest})


@require_GET
@never_cache
@vary_on_headers("HX-Request")
@researcher_required
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """The whole page, or with htmx only its live part."""
    rows = Run.objects.select_related("round", "batch", "asked_by")
    found = get_object_or_404(rows, pk=pk)
    metrics = exchange.run_metrics(found) if found.kind in curves.CURVES else []
    context: dict[str, Any] = {
        "run": found,
        "curves": curves.curves(found.kind, metrics, found.config),
        "window": curves.window(len(metrics)),
        "pace": curves.pace(metrics) if found.state == Run.State.RUNNING else None,
    }
    if request.headers.get("HX-Request"):
        live = render(request, "runs/_live.html", {**context, "is_update": True})
        if not found.is_active:
            live.headers["HX-Refresh"] = "true"  # the buttons and figures beside it have changed
        return live
    context |= _settings(found) | {
        "inputs": found.inputs.select_related(*RunInput.KINDS),
        "made": Checkpoint.objects.rewards().filter(run=found).first(),
        "figures_at": FIGURES_AT.get(found.kind, ""),
        "is_stage": found.round is not None and found.kind in stages_of(found.round.config),
    }
    return render(request, "runs/detail.html", context)


def _settings(found: Run) -> dict[str, Any]:
    """What the run was told, beside what the recipe says where it says anything."""
    if found.kind == Run.Kind.REWARD_TRAINING:
        return {"settings": differences(found.config), "has_recipe": True}
    config = {**found.config, **found.config.get("training", {})}
    return {"settings": [(name, value, "") for name, value in config.items() if name != "training"]}


@require_GET
@never_cache
@researcher_required
def run_metrics(request: HttpRequest, pk: int) -> HttpResponse:
    """Everything that the run has logged, as CSV."""
    found = get_object_or_404(Run, pk=pk)
    return csv_file(f"run-{pk}-metrics.csv", *curves.table(exchange.run_metrics(found)))


@require_POST
@researcher_required
def cancel_run(request: HttpRequest, pk: int) -> HttpResponse:
    """A stage is cancelled with its round: nothing would start it again, but the round."""
    found = get_object_or_404(Run.objects.select_related("round"), pk=pk)
    if found.round is not None and found.is_active:
        rounds.cancel_round(found.round)
    else:
        found.cancel()
    messages.success(request, f"{found} is being cancelled.")
    return redirect("run", pk)


@require_POST
@researcher_required
def retry_run(request: HttpRequest, pk: int) -> HttpResponse:
    """A stage goes on with its round, which hears of its end only while it runs itself."""
    found = get_object_or_404(Run.objects.select_related("round"), pk=pk)
    if found.round is not None and found.kind == found.round.stage:
        rounds.retry_round(found.round)
    elif found.round is not None:
        label = found.round.stage_label or "no stage"
        raise WrongState(f"{found.round} is at {label} by now; {found} is not run again.")
    else:
        found.retry()
    messages.success(request, f"{found} goes on from its last checkpoint.")
    return redirect("run", pk)
