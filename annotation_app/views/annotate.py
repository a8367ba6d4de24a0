"""The annotator's pages: pick a criterion, judge, write a prompt."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation_app import live
from annotation_app.access import own_annotation, person, signed_in
from annotation_app.forms import AnnotationForm, ReasonForm, WrittenPromptForm, preferences
from annotation_app.models import Annotation, Batch, Comparison, Criterion, Person
from annotation_app.models.refusals import LeaseLost, Refusal


@require_GET
@never_cache
@signed_in
def annotate(request: HttpRequest) -> HttpResponse:
    """The open batches, one card for each criterion."""
    who = person(request)
    batches = Batch.objects.open().filter(kind=Batch.Kind.PREFERENCE)
    found = {batch.criterion: batch for batch in batches.with_progress()}
    cards = [
        {"criterion": c, "batch": found.get(c.value), "mine": _recorded_by(who, found.get(c.value))}
        for c in Criterion
    ]
    return render(request, "annotate/choose.html", {"cards": cards})


def _recorded_by(who: Person, batch: Batch | None) -> int:
    if batch is None:
        return 0
    return Annotation.objects.recorded().filter(annotator=who, comparison__batch=batch).count()


@require_GET
@never_cache
@signed_in
def annotate_next(request: HttpRequest, criterion: str) -> HttpResponse:
    """The next comparison of the open batch, or why there is none."""
    batch = _open_batch(criterion)
    if batch is None:
        sentence = f"No {criterion} batch is open now. The next one opens by itself."
        return _nothing_left(request, criterion, None, sentence)
    annotation = Annotation.objects.lease_next(person(request), batch)
    if annotation is None:
        return _nothing_left(request, criterion, batch, _why_nothing(person(request), batch))
    return _judging_page(request, annotation, AnnotationForm(annotation))


def _open_batch(criterion: str) -> Batch | None:
    if criterion not in Criterion.values:
        raise Http404
    return Batch.objects.open().filter(criterion=criterion, kind=Batch.Kind.PREFERENCE).first()


def _why_nothing(who: Person, batch: Batch) -> str:
    """Tells "all done" from "reserved by others" and from a batch that is still empty."""
    seen = Annotation.objects.filter(annotator=who).exclude(state=Annotation.State.EXPIRED)
    leased = Annotation.objects.filter(comparison__batch=batch, state=Annotation.State.LEASED)
    theirs = leased.exclude(comparison__in=seen.values("comparison"))
    first = theirs.exclude(annotator=who).order_by("lease_expires_at").first()
    if first is not None:
        until = first.lease_expires_at.strftime("%H:%M")
        return f"What is left is reserved by others; some may come back by {until} UTC."
    if not Comparison.objects.usable().filter(batch=batch).exists():
        return "This batch has no comparisons yet. Write a prompt and judge its two responses."
    return "You have judged everything there is for you in this batch. Thank you!"


def _nothing_left(
    request: HttpRequest, criterion: str, batch: Batch | None, sentence: str
) -> HttpResponse:
    page = {"criterion": criterion, "batch": batch, "sentence": sentence}
    return render(request, "annotate/nothing.html", page)


@require_GET
@never_cache
@signed_in
def annotation(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own comparison, to judge or to see that it is stored."""
    found = own_annotation(request, pk)
    return _judging_page(request, found, AnnotationForm(found))


def _judging_page(
    request: HttpRequest, annotation: Annotation, form: AnnotationForm, status: int = 200
) -> HttpResponse:
    comparison = annotation.comparison
    page: dict[str, Any] = {
        "annotation": annotation,
        "comparison": comparison,
        "criterion": comparison.criterion,
        "sides": [
            ("left", "Left", comparison.response(annotation.shown_left)),
            ("right", "Right", comparison.response(annotation.shown_right)),
        ],
        "preferences": preferences(),
        "form": form,
        "is_open": annotation.state in (Annotation.State.LEASED, Annotation.State.EXPIRED),
        "heartbeat_seconds": settings.HEARTBEAT_SECONDS,
    }
    return render(request, "annotate/judge.html", page, status=status)


@require_POST
@signed_in
def record(request: HttpRequest, pk: int) -> HttpResponse:
    """Store the judgement. The annotation's id is its key: the same again changes nothing."""
    found = own_annotation(request, pk)
    form = AnnotationForm(found, request.POST)
    if not form.is_valid():
        return _judging_page(request, found, form, status=400)
    found.record(**form.answer())
    messages.success(request, _saved_sentence(found))
    return redirect("annotate_next", found.comparison.criterion)


def _saved_sentence(annotation: Annotation) -> str:
    assert annotation.recorded_at is not None, annotation.pk
    at = annotation.recorded_at.strftime("%H:%M:%S")
    if annotation.state == Annotation.State.SURPLUS:
        return (
            f"Kept at {at} UTC, #{annotation.pk}: your reservation had ended and someone else had "
            "filled it, so your answer counts as surplus."
        )
    return f"Saved {at} UTC, #{annotation.pk}"


@require_POST
@signed_in
def skip(request: HttpRequest, pk: int) -> HttpResponse:
    return _end(request, pk, "skip")


@require_POST
@signed_in
def flag(request: HttpRequest, pk: int) -> HttpResponse:
    return _end(request, pk, "flag")


def _end(request: HttpRequest, pk: int, how: str) -> HttpResponse:
    found, form = own_annotation(request, pk), ReasonForm(request.POST)
    reason = form.cleaned_data["reason"] if form.is_valid() else ""
    if how == "skip":
        found.skip(reason)
    else:
        found.flag(reason)
    messages.info(request, f"Comparison {found.state}. Someone else may get it.")
    return redirect("annotate_next", found.comparison.criterion)


@require_POST
@signed_in
def heartbeat(request: HttpRequest, pk: int) -> HttpResponse:
    """204 while the reservation lives, 409 with the sentence when it has ended."""
    try:
        own_annotation(request, pk).heartbeat()
    except LeaseLost as refusal:
        return HttpResponse(str(refusal), status=409, content_type="text/plain")
    return HttpResponse(status=204)


@require_http_methods(["GET", "POST"])
@never_cache
@signed_in
def write_prompt(request: HttpRequest, criterion: str) -> HttpResponse:
    """A prompt of one's own; two fresh responses come back to be judged."""
    batch = _open_batch(criterion)
    if batch is None:
        sentence = f"No {criterion} batch is open now. The next one opens by itself."
        return _nothing_left(request, criterion, None, sentence)
    form = WrittenPromptForm(request.POST or None)
    status, refusal = 200, ""
    if request.method == "POST":
        status = 400
        if form.is_valid():
            text, risk = form.cleaned_data["text"], form.cleaned_data["risk_category"]
            try:
                posed = live.pose_written_prompt(person(request), batch, text, risk)
                return redirect("annotation", posed.pk)
            except Refusal as error:
                status, refusal = error.status, str(error)
    page = {"criterion": criterion, "batch": batch, "form": form, "refusal": refusal}
    return render(request, "annotate/write.html", page, status=status)
