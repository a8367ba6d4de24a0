"""Reward training with chosen settings."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app import exchange
from annotation_app.access import known_criterion, person, researcher_required
from annotation_app.forms import RetrainForm
from annotation_app.lifecycle import training
from annotation_app.models import Release
from annotation_app.models.refusals import CannotStart


@require_GET
@never_cache
@researcher_required
def retraining(request: HttpRequest, criterion: str) -> HttpResponse:
    """The settings to choose from; with ?start=recipe the recipe's, not the installation's."""
    is_recipe = request.GET.get("start") == "recipe"
    installed = {} if is_recipe else exchange.installed_settings("reward_training")
    released = Release.objects.current().first()
    initial = {"start": released.checkpoint_id} if released else {}
    form = RetrainForm(known_criterion(criterion), installed=installed, initial=initial)
    return _page(request, criterion, form, has_installed=bool(installed))


def _page(
    request: HttpRequest,
    criterion: str,
    form: RetrainForm,
    *,
    has_installed: bool = False,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    page = {
        "criterion": criterion,
        "form": form,
        "groups": list(form.groups()),
        "refusal": refusal,
        "has_installed": has_installed,
    }
    return render(request, "rewards/retrain.html", page, status=status)


@require_POST
@researcher_required
def retrain_with(request: HttpRequest, criterion: str) -> HttpResponse:
    """Queue the training that the form describes; sent twice it is one run."""
    form = RetrainForm(known_criterion(criterion), request.POST, installed={})
    if not form.is_valid():
        return _page(request, criterion, form, status=400)
    asked = {name: form.cleaned_data[name] for name in ("config", "start", "snapshot", "form_key")}
    try:
        run = training.queue_reward_training(criterion, by=person(request), **asked)
    except CannotStart as refusal:
        return _page(request, criterion, form, refusal=str(refusal), status=409)
    messages.success(request, f"{run} is queued.")
    return redirect("run", run.pk)
