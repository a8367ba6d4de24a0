"""Which reward model is in force: promote one, or roll back to the one before."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app.access import known_criterion, person, researcher_required
from annotation_app.forms import PromotionForm
from annotation_app.models import Checkpoint, Promotion, Round


@require_GET
@never_cache
@researcher_required
def promotion(request: HttpRequest, pk: int) -> HttpResponse:
    """What promoting this reward model would change."""
    found = get_object_or_404(Checkpoint.objects.rewards(), pk=pk)
    now = Promotion.objects.in_force(found.criterion)
    return _confirmation(request, found, now, is_roll_back=False)


@require_GET
@never_cache
@researcher_required
def rolling_back(request: HttpRequest, criterion: str) -> HttpResponse:
    """What rolling back would change. Raises Http404 for a criterion that there is not."""
    now = Promotion.objects.in_force(known_criterion(criterion))
    previous = now.previous.checkpoint if now and now.previous else None
    return _confirmation(request, previous, now, is_roll_back=True)


def _confirmation(
    request: HttpRequest, then: Checkpoint | None, now: Promotion | None, *, is_roll_back: bool
) -> HttpResponse:
    page: dict[str, Any] = {
        "then": then,
        "now": now,
        "is_roll_back": is_roll_back,
        "is_same": bool(then and now and then.pk == now.checkpoint_id),
        "running": Round.objects.active(),
    }
    return render(request, "rewards/promotion.html", page)


def _seen(request: HttpRequest) -> int | None:
    form = PromotionForm(request.POST)
    return form.cleaned_data["seen"] if form.is_valid() else None


@require_POST
@researcher_required
def promote(request: HttpRequest, pk: int) -> HttpResponse:
    checkpoint = get_object_or_404(Checkpoint, pk=pk)
    Promotion.promote(checkpoint, person(request), seen=_seen(request))
    messages.success(request, f"{checkpoint} is promoted: the next round uses it.")
    return redirect("rewards")


@require_POST
@researcher_required
def roll_back(request: HttpRequest, criterion: str) -> HttpResponse:
    back = Promotion.roll_back(known_criterion(criterion), person(request), seen=_seen(request))
    messages.success(request, f"{back.checkpoint} is back in force: the next round uses it.")
    return redirect("rewards")
