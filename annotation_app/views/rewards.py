"""Reward models in a list, what is in force, retraining by one click."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from annotation_app import exchange, reward_figures
from annotation_app.access import person, refusal_page, researcher_required
from annotation_app.forms import EvaluationForm, OneClickForm
from annotation_app.lifecycle import training
from annotation_app.models import Checkpoint, Criterion, Promotion, Run
from annotation_app.tables import Table, named

SHOWN = 6
NEWEST = 20
NEWEST_JUDGINGS = 3  # of each criterion
NEWEST_FIGURES = ("by_strength", "by_batch")


@require_GET
@researcher_required
def rewards(request: HttpRequest) -> HttpResponse:
    return reward_list(request)


def reward_list(request: HttpRequest, refused: EvaluationForm | None = None) -> HttpResponse:
    """Every reward model; what was wrong with a choice of some to compare."""
    rows = list(Checkpoint.objects.rewards().select_related("run").order_by("-pk"))
    history = Promotion.objects.select_related("checkpoint", "promoted_by").order_by("-pk")
    evaluations = Run.objects.filter(kind=Run.Kind.REWARD_EVALUATION).order_by("-pk")
    judgings = [run for c in Criterion.values for run in Run.objects.judgings(c)[:NEWEST_JUDGINGS]]
    in_force = [(c, Promotion.objects.in_force(c)) for c in Criterion]
    context = {
        "checkpoints": rows,
        "promoted": [now.checkpoint_id for _, now in in_force if now is not None],
        "in_force": in_force,
        "history": history[:NEWEST],
        "evaluations": evaluations[:NEWEST],
        "alarms": _alarms(),
        "criteria": Criterion,
        "refused": refused,
        "chosen": request.POST.getlist("models"),
        "judgings": judgings,
        "chosen_judgings": request.POST.getlist("judgings"),
        "may_compare": len(rows) + len(judgings) > 1,
        "tables": _tables(rows[:SHOWN]),
        "newest": SHOWN,
    }
    return render(request, "rewards/list.html", context, status=400 if refused else 200)


def _tables(newest: list[Checkpoint]) -> list[Table]:
    reports = [
        (c.name, {name: c.metrics.get(name) for name in ("count", *NEWEST_FIGURES)})
        for c in newest[::-1]
        if c.metrics.get("count")
    ]
    return reward_figures.report_tables(reports)[1:]  # the first is in the list above


@require_GET
@researcher_required
def newest_table(request: HttpRequest, name: str) -> HttpResponse:
    """A table of the newest reward models as CSV. Raises Http404."""
    newest = Checkpoint.objects.rewards().order_by("-pk")[:SHOWN]
    return named(_tables(list(newest)), name).csv()


def _alarms() -> list[tuple[Run, str]]:
    """What the newest evaluation of each criterion says of drift."""
    found: list[tuple[Run, str]] = []
    for criterion in Criterion.values:
        run = Run.objects.evaluations(criterion).first()
        result: dict[str, Any] | None = exchange.run_folder(run).result() if run else None
        if run is not None and result is not None:
            found += [(run, sentence) for sentence in reward_figures.alarms(result)]
    return found


@require_POST
@researcher_required
def retrain(request: HttpRequest) -> HttpResponse:
    return queued_by_one_click(request, training.queue_reward_training, "{} is queued.")


def queued_by_one_click(
    request: HttpRequest, queue: Callable[..., Run], sentence: str
) -> HttpResponse:
    """A training of the criterion that the button names, and what is said of it."""
    form = OneClickForm(request.POST)
    if not form.is_valid():
        return refusal_page(request, "Choose helpfulness or safety.", 400)
    run = queue(by=person(request), **form.cleaned_data)
    messages.success(request, sentence.format(run))
    return redirect("run", run.pk)
