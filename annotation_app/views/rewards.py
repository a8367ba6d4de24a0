"""Reward models: accuracy, promotion, retraining; and the chat models beside them."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from annotation_app import figures, lifecycle
from annotation_app.access import refusal_page, researcher_required
from annotation_app.forms import CriterionForm, WeightForm
from annotation_app.models import Checkpoint, Criterion, Release

SHOWN = 6


@require_GET
@researcher_required
def rewards(request: HttpRequest) -> HttpResponse:
    rows = list(Checkpoint.objects.rewards().select_related("run").order_by("-pk"))
    promoted = {c: Checkpoint.objects.promoted(c) for c in Criterion.values}
    newest = rows[:SHOWN][::-1]
    context = {
        "checkpoints": rows,
        "promoted": [c.pk for c in promoted.values() if c is not None],
        "criteria": Criterion,
        "by_strength": figures.accuracy_by_strength(newest),
        "by_batch": figures.accuracy_by_batch(newest),
        "newest": newest,
    }
    return render(request, "rewards/list.html", context)


@require_POST
@researcher_required
def retrain(request: HttpRequest) -> HttpResponse:
    form = CriterionForm(request.POST)
    if not form.is_valid():
        return refusal_page(request, "Choose helpfulness or safety.", 400)
    run = lifecycle.queue_reward_training(form.cleaned_data["criterion"])
    messages.success(request, f"{run} is queued.")
    return redirect("run", run.pk)


@require_POST
@researcher_required
def promote(request: HttpRequest, pk: int) -> HttpResponse:
    checkpoint = get_object_or_404(Checkpoint, pk=pk)
    checkpoint.promote()
    messages.success(request, f"{checkpoint} is promoted: the next round uses it.")
    return redirect("rewards")


@require_GET
@researcher_required
def chat_models(request: HttpRequest) -> HttpResponse:
    return _chat_models(request)


def _chat_models(
    request: HttpRequest, refused: WeightForm | None = None, of: int | None = None
) -> HttpResponse:
    """Every chat model; the released ones with how often they answer."""
    rows = Checkpoint.objects.chat().select_related("run__round").order_by("-pk")
    current = {release.checkpoint_id: release for release in Release.objects.current()}
    shown = [(row, current.get(row.pk)) for row in rows]
    context = {"rows": shown, "refused": refused, "refused_release": of}
    return render(request, "rewards/chat_models.html", context, status=400 if refused else 200)


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
