"""Reward models side by side, on the same held-out comparisons."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app import exchange, measuring, reward_figures
from annotation_app.access import person, researcher_required
from annotation_app.forms import EvaluationForm
from annotation_app.judge_figures import order_table
from annotation_app.lifecycle import training
from annotation_app.models import Run
from annotation_app.tables import Table, named
from annotation_app.views.rewards import reward_list


@require_POST
@researcher_required
def evaluate(request: HttpRequest) -> HttpResponse:
    """Queue the comparison of the chosen reward models; sent twice it is one run."""
    form = EvaluationForm(request.POST)
    if not form.is_valid():
        return reward_list(request, form)
    given = form.cleaned_data
    run = training.queue_reward_evaluation(
        given["criterion"], given["models"], given["judgings"],
        by=person(request), form_key=given["form_key"],
    )  # fmt: skip
    messages.success(request, f"{run} is queued.")
    return redirect("run", run.pk)


def _found(pk: int) -> tuple[Run, dict[str, Any] | None]:
    """An evaluation and its result, None while there is none. Raises Http404."""
    found = get_object_or_404(Run, pk=pk, kind=Run.Kind.REWARD_EVALUATION)
    is_done = found.state == Run.State.SUCCEEDED
    return found, exchange.run_folder(found).result() if is_done else None


@require_GET
@never_cache
@researcher_required
def reward_evaluation(request: HttpRequest, pk: int) -> HttpResponse:
    found, result = _found(pk)
    page = {
        "run": found,
        "result": result,
        "models": exchange.evaluated_models(found),
        "judgings": measuring.judgings(found),
        "snapshot": found.input("snapshot"),
        "tables": _tables(found, result),
        "alarms": reward_figures.alarms(result) if result else [],
    }
    return render(request, "rewards/evaluation.html", page)


@require_GET
@never_cache
@researcher_required
def evaluation_table(request: HttpRequest, pk: int, name: str) -> HttpResponse:
    """The table of this name as CSV. Raises Http404."""
    return named(_tables(*_found(pk)), name).csv()


def _tables(found: Run, result: dict[str, Any] | None) -> list[Table]:
    """Where chat models have judged too, their order bias comes last but is never left out."""
    if not result or not result["count"]:
        return []
    judged = [(measuring.judge_name(it), exchange.run_folder(it).result())
              for it in measuring.judgings(found)]  # fmt: skip
    known = [(name, it) for name, it in judged if it is not None]
    return [*reward_figures.evaluation_tables(result), *([order_table(known)] if known else [])]
