"""The annotator's pages: pick a criterion, judge, write a prompt."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from annotation_app import cards, keys, live, qualifying
from annotation_app.access import own_question, person, signed_in
from annotation_app.forms import (
    CHOOSE,
    CONTRADICTION,
    SAFE_LABELS,
    WHICH_ARE_SAFE,
    AnnotationForm,
    WrittenPromptForm,
    preferences,
)
from annotation_app.models import (
    Annotation,
    Batch,
    Criterion,
    Guideline,
    Organisation,
    Person,
    Reason,
    Review,
    leases,
)
from annotation_app.models.refusals import Refusal
from annotation_app.models.remark import RATINGS

SENTENCES = {
    "choose": CHOOSE,
    "safe": WHICH_ARE_SAFE,
    "contradiction": CONTRADICTION,
    "look": "Look at both responses first: swipe to the other one.",
    "veiled": "Read both responses first: show the texts.",
    "saving": "The last answer is still being saved; press again in a moment.",
    "revising": "Your last answer is open again; submitting replaces it.",
}


@require_GET
@never_cache
@signed_in
def annotate(request: HttpRequest) -> HttpResponse:
    """The open batches, one card for each criterion."""
    who = person(request)
    batches = Batch.objects.open().filter(kind=Batch.Kind.PREFERENCE)
    found = {batch.criterion: batch for batch in batches.with_progress()}
    choices = [
        {"criterion": c, "batch": found.get(c.value), "mine": _recorded_by(who, found.get(c.value))}
        for c in Criterion
    ]
    page = {
        "choices": choices,
        "warning": Organisation.current().safety_warning,
        "sent_back": Review.objects.sent_back_to(who).count(),
    }
    return render(request, "annotate/choose.html", page)


def _recorded_by(who: Person, batch: Batch | None) -> int:
    if batch is None:
        return 0
    return Annotation.objects.recorded().filter(annotator=who, batch=batch).count()


@require_GET
@never_cache
@signed_in
def annotate_next(request: HttpRequest, criterion: str) -> HttpResponse:
    """The next comparison of the open batch, or why there is none."""
    batch = open_batch(criterion)
    if batch is None:
        return _nothing_left(request, criterion, None)
    leased = leases.lease_next(person(request).pk, batch.pk)
    card = None if leased is None else leases.read_card(leased)
    if card is None:
        return _nothing_left(request, criterion, batch)
    return judging_page(request, card, AnnotationForm(card.question))


def open_batch(criterion: str) -> Batch | None:
    """The batch that collects annotations of this criterion now. Raises Http404."""
    if criterion not in Criterion.values:
        raise Http404
    return Batch.objects.open().filter(criterion=criterion, kind=Batch.Kind.PREFERENCE).first()


def _nothing_left(request: HttpRequest, criterion: str, batch: Batch | None) -> HttpResponse:
    page: dict[str, Any] = {
        "criterion": criterion,
        "batch": batch,
        "sentence": cards.why_nothing(person(request), criterion, batch),
        "sent_back": Review.objects.sent_back_to(person(request)).count(),
    }
    if batch is not None:
        page["qualifications"] = qualifying.leading_to_work(person(request), batch)
    return render(request, "annotate/nothing.html", page)


@require_GET
@never_cache
@signed_in
def annotation(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own comparison, to judge or to see that it is stored."""
    own_question(request, pk)
    card = leases.read_card(pk)
    assert card is not None, pk
    return judging_page(request, card, AnnotationForm(card.question))


def judging_page(
    request: HttpRequest,
    card: leases.Card,
    form: AnnotationForm,
    *,
    revising: bool = False,
    review: Review | None = None,
    status: int = 200,
) -> HttpResponse:
    """The page to judge on, with its first card; the script brings those that follow."""
    criterion, organisation = card.question.criterion, Organisation.current()
    page: dict[str, Any] = {
        "card": card,
        "criterion": criterion,
        "guideline": Guideline.current(criterion),
        "veiled": criterion == Criterion.SAFETY
        and organisation.safety_is_veiled
        and "show" not in request.GET,
        "warning": organisation.safety_warning,
        "preferences": preferences(),
        "safe": [(value, f"safe_{value}", label) for value, label in SAFE_LABELS.items()],
        "form": form,
        "ratings": [str(rating) for rating in RATINGS],
        "reasons": Reason.choices,
        "noted": [(s, form[f"{s}_rating"], form[f"{s}_tags"]) for s in ("left", "right")],
        "revising": revising,
        "review": review,
        "keys": keys.layout(person(request).key_layout),
        "named_keys": keys.described(person(request).key_layout),
        "sentences": SENTENCES | {"undo_seconds": settings.UNDO_SECONDS},
        "heartbeat_seconds": settings.HEARTBEAT_SECONDS,
        "sent_back": Review.objects.sent_back_to(person(request)).count(),
    }
    return render(request, "annotate/judge.html", page, status=status)


@require_http_methods(["GET", "POST"])
@never_cache
@signed_in
def write_prompt(request: HttpRequest, criterion: str) -> HttpResponse:
    """A prompt of one's own; two fresh responses come back to be judged."""
    batch = open_batch(criterion)
    if batch is None:
        return _nothing_left(request, criterion, None)
    form = WrittenPromptForm(request.POST or None)
    status, refusal = 200, ""
    if request.method == "POST":
        status = 400
        if form.is_valid():
            try:
                posed = live.pose_written_prompt(person(request), batch, **form.cleaned_data)
                return redirect("annotation", posed.pk)
            except Refusal as error:
                status, refusal = error.status, str(error)
    page = {"criterion": criterion, "batch": batch, "form": form, "refusal": refusal}
    page["guideline"] = Guideline.current(criterion)
    return render(request, "annotate/write.html", page, status=status)
