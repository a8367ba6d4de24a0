"""The pages of a live dialogue; what streams to them comes from the live process."""

from __future__ import annotations

from typing import Any

from csp.decorators import csp_update
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app import cards, live
from annotation_app.access import live_origin, own_dialogue, person, signed_in
from annotation_app.forms import FirstMessageForm, MessageForm
from annotation_app.models import Batch, Criterion, Dialogue, Guideline, Organisation
from annotation_app.models.refusals import LeaseLost
from annotation_app.views.annotate import nothing_left, open_batch

LIVE = "annotation_app.live_urls"


@require_GET
@never_cache
@signed_in
def start_dialogue(request: HttpRequest, criterion: str) -> HttpResponse:
    """An empty dialogue; it becomes a row with its first two answers."""
    batch = open_batch(criterion)
    form, ask = FirstMessageForm(), reverse("begin_live", LIVE, [criterion])
    return _page(request, criterion, batch, {"form": form, "ask": ask})


@require_GET
@never_cache
@signed_in
def dialogue(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own dialogue, to go on with after the answer that was chosen last."""
    standing = standing_or_404(own_dialogue(request, pk))
    if standing.waiting is not None:
        return redirect("annotation", standing.waiting.pk)
    if standing.judged is None:
        messages.info(request, "No answer was chosen, so there is nothing to go on with.")
        return redirect("start_dialogue", standing.criterion)
    batch, ask = open_batch(standing.criterion), reverse("go_on_live", LIVE, [pk])
    form = MessageForm(initial={"text": standing.message})
    page = {"form": form, "ask": ask, "standing": standing, "may_revise": _may_revise(standing)}
    return _page(request, standing.criterion, batch, page)


def _may_revise(standing: live.Standing) -> bool:
    assert standing.judged is not None, standing
    try:
        standing.judged.refuse_late_revision()
    except LeaseLost:
        return False
    return True


def standing_or_404(dialogue: Dialogue) -> live.Standing:
    """Raises Http404 for a dialogue that was never posed to its author."""
    try:
        return live.standing(dialogue)
    except Dialogue.DoesNotExist:
        raise Http404 from None


def _page(
    request: HttpRequest, criterion: str, batch: Batch | None, more: dict[str, Any]
) -> HttpResponse:
    """The dialogue, or why this person may not write one now."""
    if batch is None or cards.why_not(person(request), batch):
        return nothing_left(request, criterion, batch)
    if not batch.takes_written_prompts:
        sentence = f"{batch} takes no written messages."
        return nothing_left(request, criterion, batch, sentence)
    organisation, is_safety = Organisation.current(), criterion == Criterion.SAFETY
    page = {
        **more,
        "criterion": criterion,
        "batch": batch,
        "guideline": Guideline.current(criterion),
        "warning": organisation.safety_warning if is_safety else "",
        "veiled": is_safety and organisation.safety_is_veiled,
    }
    page["live"] = live_origin(request)
    shown = render(request, "annotate/dialogue.html", page)
    csp_update({"connect-src": [page["live"]]})(lambda request: shown)(request)
    return shown
