"""Rounds: start, watch the stages, compare before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django.views.decorators.vary import vary_on_headers

from annotation_app import exchange, round_figures, tables
from annotation_app.access import person, researcher_required
from annotation_app.forms import SamplesForm
from annotation_app.lifecycle import rounds
from annotation_app.models import Organisation, Round, Run
from annotation_app.round_figures import Group
from annotation_app.samples import ordered, places, read, responses_file
from rlhf_loop.prompts import PromptKind
from rlhf_loop.round import stages_of

SAMPLES_ON_A_PAGE = 8
MOST = 100  # rounds in the list


class Stage(NamedTuple):
    """A step of a round; without a run it has not begun."""

    name: str
    label: str
    does: str
    run: Run | None


@require_GET
@researcher_required
def all_rounds(request: HttpRequest) -> HttpResponse:
    """The newest ones, without what makes their rows large."""
    rows = Round.objects.select_related("policy").defer("config", "evaluation").order_by("-pk")
    newest = list(rows[: MOST + 1])
    context = {
        "rounds": newest[:MOST],
        "most": MOST if len(newest) > MOST else None,
        "why_not": rounds.why_no_round(),
    }
    return render(request, "rounds/list.html", context)


def _found(pk: int) -> Round:
    """The round with this id. Raises Http404."""
    rows = Round.objects.select_related("policy", "helpfulness", "safety", "result")
    return get_object_or_404(rows, pk=pk)


def _stages(found: Round) -> list[Stage]:
    runs = {run.kind: run for run in found.runs.order_by("pk")}
    return [
        Stage(it, str(Run.Kind(it).label), round_figures.DOES[it], runs.get(it))
        for it in stages_of(found.config)
    ]


def _chosen(found: Round, stages: list[Stage], name: str | None) -> Stage:
    """The stage asked for; else the one that was begun last, or measured. Raises Http404."""
    if name is None:
        begun = [it for it in stages if it.run or (found.evaluation and it is stages[-1])]
        return begun[-1] if begun else stages[0]
    chosen = next((it for it in stages if it.name == name), None)
    if chosen is None:
        raise Http404
    return chosen


def _result(found: Round, stage: Stage) -> dict[str, Any] | None:
    """What a finished stage left; of the evaluation also what the round keeps of it."""
    is_done = stage.run is not None and stage.run.state == Run.State.SUCCEEDED
    left = exchange.run_folder(stage.run).result() if stage.run and is_done else None
    kept = found.evaluation if stage.name == Run.Kind.EVALUATE else None
    return left or kept or None


def _groups(found: Round, stage: Stage) -> tuple[list[Group], list[str]]:
    """The figures of a stage, and what it came to in sentences."""
    metrics = exchange.run_metrics(stage.run) if stage.run else []
    result, settings = _result(found, stage), found.config.get(stage.name) or {}
    groups = round_figures.stage_groups(stage.name, metrics, result, settings)
    return groups, round_figures.sentences(stage.name, result)


def _mark(*told: object) -> str:
    """A short word that differs where what it is made of does."""
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


@require_GET
@never_cache
@vary_on_headers("HX-Request")
@researcher_required
def round_(request: HttpRequest, pk: int, stage: str | None = None) -> HttpResponse:
    """The whole page, or with htmx only its live part, which is empty while nothing has changed.

    The page follows the round from stage to stage unless one was asked for.
    """
    found = _found(pk)
    stages = _stages(found)
    shown = _chosen(found, stages, stage)
    runs = [(it.run.pk, it.run.state, it.run.attempt, it.run.step) for it in stages if it.run]
    seen = _mark(found.state, runs)
    asks_again = bool(request.headers.get("HX-Request"))
    if asks_again and request.GET.get("seen") == seen:
        return HttpResponse(status=204)
    groups, sentences = _groups(found, shown)
    drawn = _mark(
        shown.name,
        shown.run and shown.run.state,
        [table.name for group in groups for table in group.tables],
    )
    context: dict[str, Any] = {
        "round": found,
        "stages": stages,
        "shown": shown,
        "is_chosen": stage is not None,
        "groups": groups,
        "sentences": sentences,
        "seen": seen,
        "drawn": drawn,
    }
    if asks_again:
        live = render(request, "rounds/_live.html", {**context, "is_update": True})
        if not found.is_active or request.GET.get("drawn", drawn) != drawn:
            live.headers["HX-Refresh"] = "true"  # the buttons and figures beside it have changed
        return live
    context["has_samples"] = responses_file(found)
    return render(request, "rounds/detail.html", context)


@require_GET
@never_cache
@researcher_required
def stage_table(request: HttpRequest, pk: int, stage: str, name: str) -> HttpResponse:
    """The table of this name as CSV. Raises Http404."""
    found = _found(pk)
    groups, _ = _groups(found, _chosen(found, _stages(found), stage))
    return tables.named(round_figures.tables(groups), name).csv()


@require_GET
@never_cache
@researcher_required
def samples(request: HttpRequest, pk: int) -> HttpResponse:
    """Answers before and after as text; those to safety prompts only when asked for."""
    found, form = _found(pk), SamplesForm(request.GET)
    file, asked = responses_file(found), form.cleaned_data if form.is_valid() else {}
    every = places(file) if file else ()
    names = ("kind", "order", "score", "draw")
    chosen = ordered(every, *(asked[name] for name in names)) if asked else []
    page = Paginator(chosen, SAMPLES_ON_A_PAGE).get_page(request.GET.get("page"))
    shown = read(file, list(page)) if file else []
    organisation = Organisation.current()
    has_safety = any(it["kind"] == PromptKind.ADVERSARIAL for it in shown)
    context = {
        "round": found,
        "form": form,
        "has_file": file is not None,
        "count": len(chosen),
        "every": len(every),
        "page": page,
        "samples": shown,
        "order": asked.get("order"),
        "veiled": has_safety and organisation.safety_is_veiled and not asked.get("show"),
        "warning": organisation.safety_warning,
        "query": form.query(),
        "shown_query": form.query(show=1),
        "drawn_again": form.query(draw=(asked.get("draw") or 0) + 1),
    }
    return render(request, "rounds/samples.html", context, status=200 if form.is_valid() else 400)


@require_POST
@researcher_required
def start_round(request: HttpRequest) -> HttpResponse:
    started = rounds.start_round(person(request))
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


cancel_round = _acting(rounds.cancel_round, "is being cancelled.")
retry_round = _acting(rounds.retry_round, "goes on where it stopped.")
