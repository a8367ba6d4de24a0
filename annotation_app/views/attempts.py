"""A running attempt: one question a page, answers stored as one goes; and its result.

Each is a plain form post that ends in a redirect. The page's script asks for JSON where it stores
a text while it is being written.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.forms import Form
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from annotation_app import keys
from annotation_app.access import own_attempt, person, signed_in, wants_json
from annotation_app.forms import (
    SAFE_LABELS,
    ComparedForm,
    OptionForm,
    WrittenForm,
    preferences,
)
from annotation_app.models import Attempt, AttemptAnswer, Organisation
from annotation_app.models.attempt import attempts_allowed
from annotation_app.models.choices import KeyLayout
from annotation_app.models.person import DECLINED
from annotation_app.models.refusals import TimeOver
from annotation_app.views.annotate import SENTENCES

ANSWERS = ("option", "preference", "safe", "text")  # fields of the forms


@require_GET
@never_cache
@signed_in
def attempt(request: HttpRequest, pk: int) -> HttpResponse:
    """The first question without an answer while it runs; then its result."""
    found = looked_at(request, pk)
    if found.is_running:
        empty = found.answers.filter(answered_at=None).order_by("position").first()
        return redirect("attempt_question", pk, empty.position if empty else 1)
    answers = found.answers.select_related("question", "question__gate")
    answers = answers.prefetch_related("grades")
    page = {"attempt": found, "answers": answers, "shows_each": shows_each(found)}
    return render(request, "qualifications/result.html", page)


def looked_at(request: HttpRequest, pk: int) -> Attempt:
    """One's own attempt; finished by this look where its time is over. Raises Http404."""
    found = own_attempt(request, pk)
    if found.is_running and Attempt.objects.filter(pk=pk).finish_overdue():
        found.refresh_from_db()
    return found


def shows_each(attempt: Attempt) -> bool:
    """Whether right and wrong are told by question: not while another attempt could use it."""
    if attempt.gate.is_writing or attempt.state == Attempt.State.PASSED:
        return True
    made = Attempt.objects.filter(gate=attempt.gate_id, person=attempt.person_id)
    return made.count() >= attempts_allowed(attempt.gate, attempt.person)


@require_http_methods(["GET", "POST"])
@never_cache
@signed_in
def question(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """One question; a post stores what is answered and goes where its button says."""
    found = looked_at(request, pk)
    if not found.is_running:
        return _ended(request, found)
    rows = found.answers.select_related("question")
    answer = get_object_or_404(rows, position=number)
    if request.method == "GET":
        return question_page(request, found, answer, _form(answer))
    form = _form(answer, request.POST)
    if any(request.POST.get(name) for name in ANSWERS) or found.gate.is_writing:
        if not form.is_valid():
            return _not_valid(request, found, answer, form)
        try:
            at = found.answer(number, **form.answer())  # type: ignore[attr-defined]
        except TimeOver as error:
            return _ended(request, found, str(error))
        if wants_json(request):
            return JsonResponse({"saved": f"Saved {at:%H:%M:%S} UTC"})
    return _go_on(request, found, number)


def _form(answer: AttemptAnswer, sent: Any = None) -> Form:
    """The form of this kind of question, with what is stored where nothing was sent."""
    if answer.question.is_comparison:
        return ComparedForm(answer, sent)
    if answer.question.options:
        return OptionForm(answer.question.options, sent, initial={"option": answer.option})
    return WrittenForm(sent, initial={"text": answer.text})


def question_page(
    request: HttpRequest, found: Attempt, answer: AttemptAnswer, form: Form, status: int = 200
) -> HttpResponse:
    total, answered = found.answers.count(), found.answers.given().count()
    page: dict[str, Any] = {
        "attempt": found,
        "gate": found.gate,
        "answer": answer,
        "question": answer.question,
        "form": form,
        "total": total,
        "answered": answered,
        "is_last": answer.position == total,
    }
    page |= _keys(request, answer)
    if answer.question.asks_for_safety:
        page |= _safety(request, answer, form)
    return render(request, "qualifications/question.html", page, status=status)


def _safety(request: HttpRequest, answer: AttemptAnswer, form: Form) -> dict[str, Any]:
    """The veil of the judging page, until one has asked for the texts or answered."""
    if not person(request).does_safety:
        return {"declined": DECLINED}
    organisation = Organisation.current()
    has_seen = "show" in request.GET or form.is_bound or answer.answered_at is not None
    hides = organisation.safety_is_veiled and not has_seen
    return {"warning": organisation.safety_warning, "veiled": SENTENCES["veiled"] * hides}


def _keys(request: HttpRequest, answer: AttemptAnswer) -> dict[str, Any]:
    """What the keys do here: the person's own for comparisons, digits for options."""
    layout = person(request).key_layout
    known = keys.layout(layout)
    if answer.question.is_comparison:
        safe = [(value, f"safe_{value}", label) for value, label in SAFE_LABELS.items()]
        return {"keys": known, "preferences": preferences(), "safe": safe}
    options = list(enumerate(answer.question.options))
    digits = {f"option_{n}": str(n + 1) for n, _ in options if layout != KeyLayout.NONE}
    rows = [(n, f"option_{n}", text) for n, text in options]
    return {"keys": digits | {"submit": known["submit"]}, "options": rows}


def _not_valid(
    request: HttpRequest, found: Attempt, answer: AttemptAnswer, form: Form
) -> HttpResponse:
    if wants_json(request):
        sentences = [str(e) for errors in form.errors.values() for e in errors]
        return JsonResponse({"errors": sentences}, status=400)
    return question_page(request, found, answer, form, status=400)


def _ended(request: HttpRequest, found: Attempt, sentence: str = "") -> HttpResponse:
    """What comes after the end is not stored, and the page says so."""
    if request.method == "POST" and not sentence:
        sentence = "This attempt has ended; this answer was not stored."
    if wants_json(request):
        return JsonResponse({"errors": [sentence]}, status=TimeOver.status)
    if sentence:
        messages.error(request, sentence)
    return redirect("attempt", found.pk)


def _go_on(request: HttpRequest, found: Attempt, number: int) -> HttpResponse:
    go = request.POST.get("go", "")
    if go == "over" and found.time_is_over:
        found.finish()
        return redirect("attempt", found.pk)
    number += {"next": 1, "previous": -1}.get(go, 0)
    if go == "finish" or number > found.answers.count():
        return redirect("finish_attempt", found.pk)
    return redirect("attempt_question", found.pk, max(1, number))


@require_http_methods(["GET", "POST"])
@never_cache
@signed_in
def finish(request: HttpRequest, pk: int) -> HttpResponse:
    """Before the end: what has no answer yet. A post ends the attempt."""
    found = looked_at(request, pk)
    if request.method == "POST":
        found.finish()
    if not found.is_running:
        return redirect("attempt", pk)
    answers = list(found.answers.order_by("position").values_list("position", "answered_at"))
    unanswered = [number for number, at in answers if at is None]
    given = len(answers) - len(unanswered)
    page: dict[str, Any] = {"attempt": found, "gate": found.gate, "total": len(answers)}
    page |= {"unanswered": unanswered, "given": given}
    page["missing"] = max(0, found.gate.ask - given) if found.gate.is_writing else 0
    return render(request, "qualifications/finish.html", page)
