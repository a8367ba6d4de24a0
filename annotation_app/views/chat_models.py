"""The chat models: versions on the plane of helpfulness and safety, and how often each answers."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app.access import researcher_required
from annotation_app.forms import WeightForm
from annotation_app.models import Checkpoint, Release, Round
from annotation_app.tables import Table, named
from annotation_app.versions import version_tables


@require_GET
@never_cache
@researcher_required
def chat_models(request: HttpRequest) -> HttpResponse:
    return _chat_models(request)


def _chat_models(
    request: HttpRequest, refused: WeightForm | None = None, of: int | None = None
) -> HttpResponse:
    """Every chat model; the released ones with how often they answer."""
    chat = Checkpoint.objects.chat().select_related("run__round")
    rows = chat.defer("run__round__evaluation", "run__round__config").order_by("-pk")
    current = {release.checkpoint_id: release for release in Release.objects.current()}
    shown = [(row, current.get(row.pk), _version(row)) for row in rows]
    context = {"rows": shown, "refused": refused, "refused_release": of, "tables": _tables()}
    return render(request, "models/list.html", context, status=400 if refused else 200)


def _version(checkpoint: Checkpoint) -> Round | None:
    """The round that it is the result of; None for a stage on the way and for what came in."""
    round_ = checkpoint.run.round if checkpoint.run else None
    return round_ if round_ is not None and round_.result_id == checkpoint.pk else None


def _tables() -> list[Table]:
    rounds = Round.objects.exclude(evaluation={}).order_by("pk")
    return version_tables(rounds.select_related("policy", "helpfulness", "safety"))


@require_GET
@never_cache
@researcher_required
def versions_table(request: HttpRequest, name: str) -> HttpResponse:
    """The table of this name as CSV. Raises Http404."""
    return named(_tables(), name).csv()


@require_POST
@researcher_required
def weigh_release(request: HttpRequest, pk: int) -> HttpResponse:
    release = get_object_or_404(Release.objects.current().select_related("checkpoint"), pk=pk)
    form = WeightForm(request.POST)
    if not form.is_valid():
        return _chat_models(request, form, pk)
    release.weigh(form.cleaned_data["weight"])
    messages.success(request, f"{release.checkpoint} has the weight {release.weight:g} now.")
    return redirect("chat_models")
