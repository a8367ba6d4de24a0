"""Chat models as judges of held-out comparisons: asked on request, and only where configured."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app import exchange
from annotation_app.access import person, refusal_page, researcher_required
from annotation_app.forms import JudgingForm
from annotation_app.judge_figures import judging_tables
from annotation_app.lifecycle import training
from annotation_app.models import Criterion, Run, Snapshot
from annotation_app.tables import Table, named

NEWEST = 20


@require_GET
@never_cache
@researcher_required
def judges(request: HttpRequest) -> HttpResponse:
    """Who judges, on what, and what was judged before."""
    rows = Run.objects.filter(kind=Run.Kind.REWARD_JUDGING).order_by("-pk")[:NEWEST]
    held_out = [(c, Snapshot.objects.with_holdout(c).first()) for c in Criterion]
    page = {
        "address": settings.JUDGE_URL,
        "model": settings.JUDGE_MODEL,
        "has_key": bool(settings.JUDGE_API_KEY),
        "held_out": held_out,
        "judgings": [(run, _result(run)) for run in rows],
    }
    return render(request, "rewards/judges.html", page)


@require_POST
@researcher_required
def ask_judge(request: HttpRequest) -> HttpResponse:
    """Have the judge asked about the newest held-out comparisons; sent twice it is one run."""
    form = JudgingForm(request.POST)
    if not form.is_valid():
        return refusal_page(
            request, "Say which comparisons: those of helpfulness or of safety.", 400
        )
    run = training.queue_judging(by=person(request), **form.cleaned_data)
    messages.success(request, f"{run} is queued.")
    return redirect("run", run.pk)


def _result(run: Run) -> dict[str, Any] | None:
    return exchange.run_folder(run).result() if run.state == Run.State.SUCCEEDED else None


@require_GET
@never_cache
@researcher_required
def judging(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Run, pk=pk, kind=Run.Kind.REWARD_JUDGING)
    result = _result(found)
    page = {
        "run": found,
        "result": result,
        "snapshot": found.input("snapshot"),
        "tables": _tables(found, result),
        "evaluations": Run.objects.filter(inputs__other_run=found).order_by("-pk"),
    }
    return render(request, "rewards/judging.html", page)


def _tables(found: Run, result: dict[str, Any] | None) -> list[Table]:
    return judging_tables(found.config["model"], result) if result else []


@require_GET
@never_cache
@researcher_required
def judging_table(request: HttpRequest, pk: int, name: str) -> HttpResponse:
    """The table of this name as CSV. Raises Http404."""
    found = get_object_or_404(Run, pk=pk, kind=Run.Kind.REWARD_JUDGING)
    return named(_tables(found, _result(found)), name).csv()
