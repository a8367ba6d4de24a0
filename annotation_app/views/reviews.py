"""The review queue: answers one after the other, each with a decision."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app import team
from annotation_app.access import person, reviewer_required, signed_in
from annotation_app.forms import (
    SAFE_LABELS,
    AnnotationForm,
    FeedbackSeenForm,
    ReviewFilterForm,
    ReviewForm,
    as_given,
    in_words,
    preferences,
)
from annotation_app.models import (
    Annotation,
    Batch,
    Criterion,
    Guideline,
    KeyLayout,
    Organisation,
    Person,
    Review,
    Side,
    leases,
)
from annotation_app.models.refusals import BatchClosed, LeaseLost, WrongState
from annotation_app.models.review import draw

DAYS = 7
COUNTED = 1_000  # beyond this many the page does not count what waits
JUDGEMENT = ("choice", "strength", "a_safe", "b_safe")


@require_GET
@never_cache
@reviewer_required
def reviews(request: HttpRequest) -> HttpResponse:
    """What waits, whose answers have been looked at, and where to start."""
    return _overview(request, ReviewFilterForm(request.GET))


def _overview(request: HttpRequest, form: ReviewFilterForm) -> HttpResponse:
    since = timezone.now() - timedelta(days=DAYS)
    page: dict[str, Any] = {"form": form, "counted": COUNTED, "days": DAYS}
    page["last"] = Review.objects.newest_of(person(request))
    batches = list(Batch.objects.collecting_since(since).values_list("pk", flat=True))
    recent = Annotation.objects.reviewable().filter(batch__in=batches, recorded_at__gte=since)
    page["annotators"] = team.review_figures(recent)
    if form.is_valid():
        waiting = form.narrow(Annotation.objects.to_review(person(request)))
        if not form.is_bounded():  # else all that was ever reviewed would be gone through
            collecting = Batch.objects.filter(state__in=Batch.COLLECTING)
            waiting = waiting.filter(batch__in=list(collecting.values_list("pk", flat=True)))
        page |= {"waiting": waiting[: COUNTED + 1].count(), "query": form.query()}
        page["is_bounded"] = form.is_bounded()
    return render(request, "reviews/list.html", page, status=200 if form.is_valid() else 400)


@require_GET
@never_cache
@reviewer_required
def next_review(request: HttpRequest) -> HttpResponse:
    """One of the answers that wait; its own address keeps it through a reload."""
    form = ReviewFilterForm(request.GET)
    if not form.is_valid():
        return _overview(request, form)
    pk = draw(form.narrow(Annotation.objects.to_review(person(request))))
    if pk is None:
        messages.info(request, "Nothing of this waits for a review.")
    return redirect(_address("reviews", form) if pk is None else _address("review", form, pk))


def _address(name: str, form: ReviewFilterForm, *args: int) -> str:
    query = form.query()
    return reverse(name, args=args) + (f"?{query}" if query else "")


def _answer(pk: int) -> Annotation:
    """The answer with this id. Raises Http404."""
    rows = Annotation.objects.reviewable().select_related("annotator", "batch")
    return get_object_or_404(rows, pk=pk)


@require_GET
@never_cache
@reviewer_required
def review(request: HttpRequest, pk: int) -> HttpResponse:
    """One answer to decide on, or why there is nothing to decide."""
    return _review_page(request, _answer(pk))


@require_POST
@reviewer_required
def decide(request: HttpRequest, pk: int) -> HttpResponse:
    """Store the decision and bring the next answer."""
    annotation, question = _answer(pk), leases.read_question(pk)
    assert question is not None, pk
    form, edit = ReviewForm(request.POST), None
    if request.POST.get("decision") == Review.Decision.EDITED:
        edit = AnnotationForm(question, request.POST)
    if not form.is_valid() or (edit is not None and not edit.is_valid()):
        return _review_page(request, annotation, form, edit, status=400)
    try:
        sentence = _decide(person(request), annotation, form, edit)
    except (WrongState, BatchClosed, LeaseLost) as refusal:
        return _review_page(request, annotation, form, edit, refusal=str(refusal), status=409)
    messages.success(request, sentence)
    return redirect(_address("next_review", ReviewFilterForm(request.GET)))


def _decide(
    by: Person, annotation: Annotation, form: ReviewForm, edit: AnnotationForm | None
) -> str:
    """Do what the form says; returns the sentence for it. Raises as the verbs of Review do."""
    feedback, pk, name = form.cleaned_data["feedback"], annotation.pk, annotation.annotator
    if edit is not None:
        answer = edit.answer()
        Review.edit(annotation, by, feedback, **{key: answer[key] for key in JUDGEMENT})
        return f"Edited: your correction stands in place of #{pk} by {name}."
    if form.cleaned_data["decision"] == Review.Decision.REJECTED:
        Review.reject(annotation, by, feedback)
        return f"Rejected: #{pk} is out, and {name} will read why."
    if form.cleaned_data["decision"] == Review.Decision.SENT_BACK:
        Review.send_back(annotation, by, feedback)
        return f"Sent back: #{pk} stands until {name} judges again."
    Review.approve(annotation, by, feedback)
    return f"Approved: #{pk} by {name} stands."


@require_POST
@reviewer_required
def undo_review(request: HttpRequest, pk: int) -> HttpResponse:
    """Take one's own decision back, and stand before its answer again."""
    found = get_object_or_404(Review.objects.select_related("annotation"), pk=pk)
    waiting = found.annotation
    try:
        waiting = found.undo(person(request))
    except WrongState as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, _undone(found, waiting))
    return redirect(_address("review", ReviewFilterForm(request.GET), waiting.pk))


def _undone(review: Review, waiting: Annotation) -> str:
    pk, decision = review.annotation_id, review.get_decision_display().lower()
    restored = "" if waiting.pk == pk else f" as #{waiting.pk}"
    return f"Undone: #{pk} is {decision} no more and waits for another decision{restored}."


def _review_page(
    request: HttpRequest,
    annotation: Annotation,
    form: ReviewForm | None = None,
    edit: AnnotationForm | None = None,
    *,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    over = _why_over(annotation, person(request))
    card = leases.read_card(annotation.pk)
    assert card is not None, annotation
    criterion, organisation = card.question.criterion, Organisation.current()
    is_safety, has_seen = criterion == Criterion.SAFETY, bool(request.GET.get("show") or form)
    given, batch = as_given(annotation), annotation.batch
    page = {
        "annotation": annotation,
        "card": card,
        "criterion": criterion,
        "given": in_words(annotation),
        "chosen": given["preference"].partition("_")[0],
        "seconds": _seconds_by_side(annotation),
        "guideline": Guideline.followed(criterion, annotation.guideline_version),
        "form": form or ReviewForm(),
        "edit": edit or AnnotationForm(card.question, initial=given),
        "is_editing": edit is not None,
        "preferences": preferences(),
        "safe": SAFE_LABELS.items(),
        "over": over,
        "refusal": "" if refusal == over else refusal,
        "can_send_back": batch.state in Batch.COLLECTING,
        "veiled": is_safety and organisation.safety_is_veiled and not has_seen,
        "warning": organisation.safety_warning,
        "query": ReviewFilterForm(request.GET).query(),
        "has_keys": person(request).key_layout != KeyLayout.NONE,
        "last": Review.objects.newest_of(person(request)),
    }
    return render(request, "reviews/review.html", page, status=status)


def _why_over(annotation: Annotation, by: Person) -> str:
    """Why there is nothing to decide, if so. Raises NotAssigned where it is not for this person."""
    try:
        Review.refuse(annotation, by)
    except WrongState as refusal:
        return str(refusal)
    return ""


def _seconds_by_side(annotation: Annotation) -> tuple[float | None, float | None]:
    """How long the annotator looked at the left and at the right response."""
    seconds = annotation.a_seconds, annotation.b_seconds
    return seconds if annotation.shown_left == Side.A else (seconds[1], seconds[0])


@require_POST
@signed_in
def feedback_seen(request: HttpRequest) -> HttpResponse:
    """The annotator has read their feedback, as far as the page showed it."""
    form = FeedbackSeenForm(request.POST)
    if form.is_valid():
        Review.objects.see(person(request), **form.cleaned_data)
    return redirect("my_work")
