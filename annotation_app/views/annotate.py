"""The annotator's pages: pick a criterion, judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app import cards, keys, qualifying
from annotation_app.access import known_criterion, own_question, person, signed_in
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
    """The open batches, one card for each criterion; what compares a round's models counts in it
    and looks no different."""
    who = person(request)
    found: dict[str, list[Any]] = {c: [] for c in Criterion.values}
    for batch in Batch.objects.open().with_progress().order_by("-kind"):
        found[batch.criterion].append(batch)
    organisation = Organisation.current()
    choices = [
        {
            "criterion": c,
            "batch": next(iter(found[c.value]), None),
            "wanted": sum(batch.wanted_count for batch in found[c.value]),
            "recorded": sum(batch.recorded_count for batch in found[c.value]),
            "mine": _recorded_by(who, found[c.value]),
            "dialogues": _to_go_on_with(who, next(iter(found[c.value]), None)),
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


def _recorded_by(who: Person, batches: Sequence[Batch]) -> int:
    if not batches:
        return 0
    mine = Annotation.objects.recorded().without_corrections()
    return mine.filter(annotator=who, batch__in=batches).count()


def _to_go_on_with(who: Person, batch: Batch | None) -> list[Dialogue]:
    if batch is None or not batch.takes_written_prompts:
        return []
    return list(Dialogue.objects.to_go_on_with(who, batch)[:MOST_DIALOGUES])


@require_GET
@never_cache
@signed_in
def annotate_next(request: HttpRequest, criterion: str) -> HttpResponse:
    """The next comparison of what is open, or why there is none.

    A turn of a live dialogue that waits comes first, on a page of its own.
    """
    batch, leased = draw(person(request), open_batches(criterion))
    card = None if leased is None else leases.read_card(leased)
    if card is None:
        return nothing_left(request, criterion, batch)
    if card.dialogue is not None:
        return redirect("annotation", card.question.annotation)
    return judging_page(request, card, AnnotationForm(card.question))


def open_batch(criterion: str) -> Batch | None:
    """The batch that reward models will learn from, where dialogues go. Raises Http404."""
    return next((it for it in open_batches(criterion) if it.kind == Batch.Kind.PREFERENCE), None)


def open_batches(criterion: str) -> list[Batch]:
    """What collects annotations of this criterion now, what a release waits for first: the judging
    page draws from one after the other. Raises Http404."""
    open_ones = Batch.objects.open().filter(criterion=known_criterion(criterion))
    return list(open_ones.order_by("kind"))


def draw(who: Person, batches: Sequence[Batch], beside: int = 0) -> tuple[Batch | None, int | None]:
    """A lease from the first of these batches that has work for this person, and that batch;
    without any the last one. A turn of their own dialogue that waits comes before any other."""
    batch, leased = None, None
    if len(batches) > 1 and Annotation.objects.turns_waiting(who).exclude(pk=beside).exists():
        batches = sorted(batches, key=lambda it: it.kind != Batch.Kind.PREFERENCE)
    for batch in batches:
        leased = leases.lease_next(who.pk, batch.pk, beside)
        if leased is not None:
            break
    return batch, leased


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
