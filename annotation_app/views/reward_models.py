"""One reward model: what it was trained on, what was measured, what it was wrong about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app import reward_figures, reward_models
from annotation_app.access import researcher_required
from annotation_app.forms import MistakesForm, differences
from annotation_app.models import Checkpoint, Criterion, Organisation, Promotion, Run
from annotation_app.reward_models import Mistake
from annotation_app.tables import Table, csv_file, named

ON_A_PAGE = 10
MISTAKE = (
    "Rank", "Id", "Rejected scores higher by", "Score of chosen", "Score of rejected", "Strength",
    "Safety", "Batch", "Turn", "Annotators", "Prompt", "Chosen", "Rejected",
)  # fmt: skip


def _found(pk: int) -> Checkpoint:
    """The reward model with this id. Raises Http404."""
    return get_object_or_404(Checkpoint.objects.rewards().select_related("run"), pk=pk)


def _tables(checkpoint: Checkpoint) -> list[Table]:
    if not checkpoint.metrics.get("count"):
        return []
    return reward_figures.report_tables([(checkpoint.name, checkpoint.metrics)])


@require_GET
@never_cache
@researcher_required
def reward_model(request: HttpRequest, pk: int) -> HttpResponse:
    found = _found(pk)
    origin = reward_models.origin(found)
    page: dict[str, Any] = {
        "checkpoint": found,
        "origin": origin,
        "now": Promotion.objects.in_force(found.criterion),
        "settings": differences(origin.run.config) if origin.run else [],
        "has_recipe": True,
        "tables": _tables(found),
        "why_no_mistakes": reward_models.why_no_mistakes(found),
        "evaluations": Run.objects.filter(inputs__checkpoint=found)
        .filter(kind=Run.Kind.REWARD_EVALUATION)
        .order_by("-pk")[:ON_A_PAGE],
    }
    return render(request, "rewards/model.html", page)


@require_GET
@never_cache
@researcher_required
def reward_table(request: HttpRequest, pk: int, name: str) -> HttpResponse:
    """The table of this name as CSV. Raises Http404."""
    return named(_tables(_found(pk)), name).csv()


@require_GET
@never_cache
@researcher_required
def mistakes(request: HttpRequest, pk: int) -> HttpResponse:
    """The most confident mistakes as text; safety texts only when asked for."""
    found, form = _found(pk), MistakesForm(request.GET)
    worst = _worst(found, form) if form.is_valid() else []
    pages = Paginator(worst, ON_A_PAGE)
    shown = pages.get_page(request.GET.get("page"))
    organisation = Organisation.current()
    is_safety = found.criterion == Criterion.SAFETY
    page = {
        "checkpoint": found,
        "form": form,
        "count": len(worst),
        "most": reward_models.MOST_MISTAKES,
        "measured": found.metrics.get("count", 0),
        "page": shown,
        "why_none": reward_models.why_no_mistakes(found),
        "veiled": is_safety and organisation.safety_is_veiled and not request.GET.get("show"),
        "warning": organisation.safety_warning,
    }
    return render(request, "rewards/mistakes.html", page, status=200 if form.is_valid() else 400)


def _worst(found: Checkpoint, form: MistakesForm) -> list[Mistake]:
    return reward_models.worst_mistakes(found, form.cleaned_data["strength"])


@require_GET
@never_cache
@researcher_required
def mistakes_csv(request: HttpRequest, pk: int) -> HttpResponse:
    """The same mistakes as CSV; texts of strangers, so formulas are quoted. Raises Http404."""
    found, form = _found(pk), MistakesForm(request.GET)
    if not form.is_valid():
        raise Http404
    return csv_file(f"mistakes-{pk}.csv", MISTAKE, _mistake_rows(_worst(found, form)))


def _mistake_rows(found: list[Mistake]) -> Iterator[list[Any]]:
    for rank, it in enumerate(found, start=1):
        pair = it.pair
        prompt = "\n\n".join(f"{message.role}: {message.content}" for message in pair.prompt)
        yield [rank, pair.id, it.by, it.chosen, it.rejected, pair.strength or "", pair.safety or "",
               pair.batch, pair.turn, it.verdicts, prompt, pair.chosen, pair.rejected]  # fmt: skip
