"""What the judging page sends: answers, skips, flags, heartbeats.

Each is a plain form post that ends in a redirect, so the page works without its script. The script
asks for JSON, and gets with the same request the comparison to show after the one on the screen.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from annotation_app import cards
from annotation_app.access import own_annotation, own_question, person, signed_in, wants_json
from annotation_app.forms import AnnotationForm, ReasonForm
from annotation_app.models import Annotation, Batch, Remark, Review, leases
from annotation_app.views.annotate import draw, judging_page, open_batches


def shown_beside(request: HttpRequest) -> int:
    """The annotation that stays on the screen while another is asked for; 0 for none."""
    return _number(request, "shown")


def _number(request: HttpRequest, name: str) -> int:
    sent = request.POST.get(name, "")
    return int(sent) if sent.isascii() and sent.isdigit() and len(sent) < 19 else 0


@require_POST
@signed_in
def next_card(request: HttpRequest, criterion: str) -> HttpResponse:
    """Reserve the comparison after the one that is shown, so that it is there when wanted."""
    batch, leased = draw(person(request), open_batches(criterion), shown_beside(request))
    return JsonResponse(cards.following(person(request), criterion, batch, leased))


@require_POST
@signed_in
def record(request: HttpRequest, pk: int) -> HttpResponse:
    """Store the judgement. The annotation's id is its key: the same again changes nothing."""
    question = own_question(request, pk)
    form = AnnotationForm(question, request.POST)
    if not form.is_valid():
        return _not_valid(request, question, form)
    who, answer = person(request).pk, form.answer()
    if not wants_json(request) or _number(request, "dialogue"):
        at = leases.record(pk, who, answer)
        sentence = saved_sentence(pk, at) if at else _late(request, pk, answer)
        _remark(pk, form)
        return _alone(request, question, pk, sentence)
    beside = shown_beside(request)
    at, leased = leases.record_and_lease_next(pk, who, answer, question.batch, beside)
    sentence = saved_sentence(pk, at) if at else _late(request, pk, answer)
    _remark(pk, form)
    return _go_on(request, question, pk, sentence, leased)


def saved_sentence(pk: int, at: datetime) -> str:
    return f"Saved {at:%H:%M:%S} UTC, #{pk}"


def _late(request: HttpRequest, pk: int, answer: dict[str, Any]) -> str:
    """The row is no running lease: recorded before, late, or lost. Raises LeaseLost."""
    found = own_annotation(request, pk)
    found.record(**answer)
    assert found.recorded_at is not None, pk
    if found.state == Annotation.State.SURPLUS:
        return (
            f"Kept at {found.recorded_at:%H:%M:%S} UTC, #{pk}: your reservation had ended and "
            "someone else had filled it, so your answer counts as surplus."
        )
    return saved_sentence(pk, found.recorded_at)


def _remark(pk: int, form: AnnotationForm) -> None:
    """What was noted to an answer that is stored now; most come without. Raises LeaseLost."""
    if remark := form.remark():
        Remark.leave(pk, remark)


def _not_valid(
    request: HttpRequest, question: leases.Question, form: AnnotationForm
) -> HttpResponse:
    if wants_json(request):
        sentences = [str(e) for errors in form.errors.values() for e in errors]
        return JsonResponse({"errors": sentences}, status=400)
    card = leases.read_card(question.annotation)
    assert card is not None, question
    return judging_page(request, card, form, status=400)


def _alone(request: HttpRequest, question: leases.Question, pk: int, sentence: str) -> HttpResponse:
    """Without the script, or on the page of a dialogue's turn: nothing is reserved beside it."""
    if wants_json(request):
        saved = {"id": pk, "sentence": sentence}
        return JsonResponse({"saved": saved, "next": None, "why": "The dialogue goes on."})
    messages.success(request, sentence)
    if within := _number(request, "dialogue"):
        return redirect("dialogue", within)
    return redirect("annotate_next", question.criterion)


def _go_on(
    request: HttpRequest, question: leases.Question, pk: int, sentence: str, leased: int | None
) -> HttpResponse:
    """With nothing left in the batch of the answer, the next comparison is of another one."""
    batch = Batch(pk=question.batch, criterion=question.criterion, state=question.batch_state)
    if leased is None:
        others = [it for it in open_batches(question.criterion) if it.pk != batch.pk]
        other, leased = draw(person(request), others, shown_beside(request))
        batch = other or batch
    following = cards.following(person(request), question.criterion, batch, leased)
    return JsonResponse({"saved": {"id": pk, "sentence": sentence}, **following})


@require_POST
@signed_in
def skip(request: HttpRequest, pk: int) -> HttpResponse:
    return _end(request, pk, Annotation.skip)


@require_POST
@signed_in
def flag(request: HttpRequest, pk: int) -> HttpResponse:
    return _end(request, pk, Annotation.flag)


def _end(request: HttpRequest, pk: int, end: Any) -> HttpResponse:
    found, form = own_annotation(request, pk), ReasonForm(request.POST)
    end(found, form.cleaned_data["reason"] if form.is_valid() else "")
    sentence = f"Comparison {found.state}. Someone else may get it."
    question = own_question(request, pk)
    return _after(request, question, pk, sentence)


def _after(request: HttpRequest, question: leases.Question, pk: int, sentence: str) -> HttpResponse:
    """What follows a skip, a flag or another answer."""
    if not wants_json(request) or _number(request, "dialogue"):
        return _alone(request, question, pk, sentence)
    leased = leases.lease_next(person(request).pk, question.batch, shown_beside(request))
    return _go_on(request, question, pk, sentence, leased)


@require_POST
@signed_in
def release(request: HttpRequest, pk: int) -> HttpResponse:
    """Give a comparison back that was reserved ahead and not looked at."""
    own_annotation(request, pk).release()
    return HttpResponse(status=204)


@require_POST
@signed_in
def heartbeat(request: HttpRequest, pk: int) -> HttpResponse:
    """204 while the reservation lives, 200 with the sentence when it will end soon, 409 with one
    when it has ended."""
    found = own_annotation(request, pk)
    if found.heartbeat():
        return HttpResponse(status=204)
    return JsonResponse(
        {
            "errors": [
                "This batch is closing: send your answer before "
                f"{found.lease_expires_at:%H:%M:%S} UTC, when your reservation ends."
            ]
        }
    )


@require_http_methods(["GET", "POST"])
@never_cache
@signed_in
def revise(request: HttpRequest, pk: int) -> HttpResponse:
    """Undo: judge one's own stored answer once more; the new row supersedes the old one."""
    question = own_question(request, pk)
    if request.method == "GET":
        card = leases.read_card(pk)
        assert card is not None, pk
        own_annotation(request, pk).refuse_late_revision()
        if wants_json(request):
            return JsonResponse(cards.shown(card))
        review = Review.objects.sent_back_to(person(request)).filter(annotation=pk).first()
        form = AnnotationForm(question)
        return judging_page(request, card, form, revising=True, review=review)
    form = AnnotationForm(question, request.POST)
    if not form.is_valid():
        return _not_valid(request, question, form)
    revised = own_annotation(request, pk).revise(**form.answer())
    revised.record(**form.answer())  # refuses another answer than the one that is stored
    assert revised.recorded_at is not None, revised
    _remark(revised.pk, form)
    sentence = saved_sentence(revised.pk, revised.recorded_at) + f", in place of #{pk}"
    return _after(request, question, revised.pk, sentence)
