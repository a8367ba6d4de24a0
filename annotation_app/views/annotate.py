"""The annotator's pages: pick a criterion, judge."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app import cards, keys, qualifying
from annotation_app.access import own_question, person, signed_in
from annotation_app.forms import (
    CHOOSE,
    CONTRADICTION,
    SAFE_LABELS,
    WHICH_ARE_SAFE,
    AnnotationForm,
    preferences,
)
from annotation_app.models import (
    Annotation,
    Batch,
    Criterion,
    Dialogue,
    Guideline,
    Organisation,
    Person,
    Reason,
    Review,
    leases,
)
from annotation_app.models.remark import RATINGS

MOST_DIALOGUES = 10  # that are offered to go on with
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
    organisation = Organisation.current()
    choices = [
        {
            "criterion": c,
            "batch": found.get(c.value),
            "mine": _recorded_by(who, found.get(c.value)),
            "dialogues": _to_go_on_with(who, found.get(c.value)),
            "veiled": c == Criterion.SAFETY and organisation.safety_is_veiled,
        }
        for c in Criterion
    ]
    page = {
        "choices": choices,
        "most_dialogues": MOST_DIALOGUES,
        "warning": organisation.safety_warning,
        "sent_back": Review.objects.sent_back_to(who).count(),
    }
    return render(request, "annotate/choose.html", page)


def _recorded_by(who: Person, batch: Batch | None) -> int:
    if batch is None:
        return 0
    mine = Annotation.objects.recorded().without_corrections()
    return mine.filter(annotator=who, batch=batch).count()


def _to_go_on_with(who: Person, batch: Batch | None) -> list[Dialogue]:
    if batch is None or not batch.takes_written_prompts:
        return []
    return list(Dialogue.objects.to_go_on_with(who, batch)[:MOST_DIALOGUES])


@require_GET
@never_cache
@signed_in
def annotate_next(request: HttpRequest, criterion: str) -> HttpResponse:
    """The next comparison of the open batch, or why there is none.

    A turn of a live dialogue that waits comes first, on a page of its own.
    """
    batch = open_batch(criterion)
    if batch is None:
        return nothing_left(request, criterion, None)
    leased = leases.lease_next(person(request).pk, batch.pk)
    card = None if leased is None else leases.read_card(leased)
    if card is None:
        return nothing_left(request, criterion, batch)
    if card.dialogue is not None:
        return redirect("annotation", card.question.annotation)
    return judging_page(request, card, AnnotationForm(card.question))


def open_batch(criterion: str) -> Batch | None:
    """The batch that collects annotations of this criterion now. Raises Http404."""
    if criterion not in Criterion.values:
        raise Http404
    return Batch.objects.open().filter(criterion=criterion, kind=Batch.Kind.PREFERENCE).first()


def nothing_left(
    request: HttpRequest, criterion: str, batch: Batch | None, sentence: str = ""
) -> HttpResponse:
    page: dict[str, Any] = {
        "criterion": criterion,
        "batch": batch,
        "sentence": sentence or cards.why_nothing(person(request), criterion, batch),
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
    """The page to judge on, with its first card; the script brings those that follow.

    A turn of a live dialogue stands alone, and leads back to the dialogue.
    """
    criterion, organisation = card.question.criterion, Organisation.current()
    page: dict[str, Any] = {
        "card": card,
        "criterion": criterion,
        "dialogue": card.dialogue,
        "guideline": Guideline.current(criterion),
        "veiled": criterion == Criterion.SAFETY
        and organisation.safety_is_veiled
        and "show" not in request.GET
        and SENTENCES["veiled"],
        "warning": organisation.safety_warning,
        "preferences": preferences(),
        "safe": [(value, f"safe_{value}", label) for value, label in SAFE_LABELS.items()],
        "form": form,
        "ratings": [str(rating) for rating in RATINGS],
        "reasons": Reason.choices,
        "noted": [(s, form.note[f"{s}_rating"], form.note[f"{s}_tags"]) for s in ("left", "right")],
        "revising": revising,
        "review": review,
        "keys": keys.layout(person(request).key_layout),
        "named_keys": keys.described(person(request).key_layout),
        "sentences": SENTENCES | {"undo_seconds": settings.UNDO_SECONDS},
        "heartbeat_seconds": settings.HEARTBEAT_SECONDS,
        "sent_back": Review.objects.sent_back_to(person(request)).count(),
    }
    return render(request, "annotate/judge.html", page, status=status)
