"""Demonstrations: written from nothing or as a better answer, and decided on by reviewers."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation_app import cards
from annotation_app.access import (
    known_criterion,
    own_annotation,
    person,
    refusal_page,
    reviewer_required,
    signed_in,
)
from annotation_app.forms import BetterAnswerForm, DemonstrationForm, RejectionForm
from annotation_app.models import (
    Annotation,
    Criterion,
    Demonstration,
    Guideline,
    Organisation,
    Person,
    Response,
)
from annotation_app.models.refusals import NotAssigned, Refusal

SHOWN = 50


@require_http_methods(["GET", "POST"])
@never_cache
@signed_in
def write_demonstration(request: HttpRequest, criterion: str) -> HttpResponse:
    """A prompt of one's own, with the answer that a model should give."""
    author = person(request)
    if sentence := cards.why_no_writing(author, known_criterion(criterion)):
        return refusal_page(request, sentence, 403)
    form = DemonstrationForm(criterion, request.POST or None)
    page = {"criterion": criterion, "form": form, "draft": f"write {criterion}"}
    return _written(
        request, page, lambda: Demonstration.write(author, criterion, **form.cleaned_data)
    )


@require_http_methods(["GET", "POST"])
@never_cache
@signed_in
def correct(request: HttpRequest, pk: int) -> HttpResponse:
    """A better answer than the response that one has preferred."""
    author, annotation = person(request), own_annotation(request, pk)
    response, criterion = _preferred(annotation), annotation.comparison.criterion
    if sentence := cards.why_no_writing(author, criterion):
        return refusal_page(request, sentence, 403)
    stands = Demonstration.objects.standing().filter(author=author, corrects=response).first()
    if request.method == "GET" and stands is not None:
        return redirect("demonstration", stands.pk)
    form = BetterAnswerForm(response.text, request.POST or None)
    page = {
        "criterion": criterion,
        "form": form,
        "response": response,
        "turns": annotation.comparison.prompt.messages,
        "draft": f"correct {response.pk}",
    }
    return _written(
        request,
        page,
        lambda: Demonstration.correct(author, criterion, response, **form.cleaned_data),
    )


def _preferred(annotation: Annotation) -> Response:
    """The response that a recorded annotation prefers. Raises Http404 for any other."""
    if annotation.state != Annotation.State.RECORDED or annotation.choice == Annotation.Choice.TIE:
        raise Http404
    return annotation.comparison.response(annotation.choice)


def _written(request: HttpRequest, page: dict[str, Any], write: Any) -> HttpResponse:
    """Store what was sent, or show the page with what keeps it from being stored."""
    status = 200
    if request.method == "POST":
        status = 400
        if page["form"].is_valid():
            try:
                return redirect("demonstration", write().pk)
            except Refusal as error:
                status, page["refusal"] = error.status, str(error)
    page["guideline"] = Guideline.current(page["criterion"])
    return render(request, "demonstrations/write.html", page, status=status)


@require_GET
@never_cache
@reviewer_required
def demonstrations(request: HttpRequest) -> HttpResponse:
    """What waits for a decision, the oldest first."""
    waiting = Demonstration.objects.waiting().select_related("prompt", "author")
    page = {
        "waiting": waiting[:SHOWN],
        "waiting_count": waiting.count(),
        "first": Demonstration.objects.for_reviewer(person(request)).first(),
        "is_veiled": Organisation.current().safety_is_veiled,
    }
    return render(request, "demonstrations/list.html", page)


@require_GET
@never_cache
@signed_in
def demonstration(request: HttpRequest, pk: int) -> HttpResponse:
    """One of them: for its author to read, for reviewers to decide on."""
    found = _found(pk)
    if found.author_id != person(request).pk and not person(request).is_reviewer:
        raise NotAssigned("This demonstration is someone else's.")
    return _page(request, found)


def _found(pk: int) -> Demonstration:
    rows = Demonstration.objects.select_related(
        "prompt", "author", "corrects", "decided_by", "supersedes", "superseded_by"
    )
    return get_object_or_404(rows, pk=pk)


def _page(
    request: HttpRequest, found: Demonstration, status: int = 200, **bound: forms.Form
) -> HttpResponse:
    is_own = found.author_id == person(request).pk
    before = found.supersedes or found.corrects
    page = {
        "found": found,
        "before": None if before is None else before.text,
        "is_own": is_own,
        "may_decide": not is_own and found.state == Demonstration.State.WRITTEN,
        "is_veiled": found.criterion == Criterion.SAFETY
        and Organisation.current().safety_is_veiled,
        "edit": BetterAnswerForm(found.text),
        "rejection": RejectionForm(),
        **bound,
    }
    return render(request, "demonstrations/demonstration.html", page, status=status)


@require_POST
@reviewer_required
def approve_demonstration(request: HttpRequest, pk: int) -> HttpResponse:
    """As it stands; or edited, where another text comes with it."""
    found, by = _found(pk), person(request)
    if "text" not in request.POST:
        found.approve(by)
        return _go_on(request, by, pk, "Approved.")
    form = BetterAnswerForm(found.text, request.POST)
    if not form.is_valid():
        return _page(request, found, 400, edit=form)
    found.approve_edited(by, form.cleaned_data["text"])
    return _go_on(request, by, pk, "Approved with your edits.")


@require_POST
@reviewer_required
def reject_demonstration(request: HttpRequest, pk: int) -> HttpResponse:
    found, by, form = _found(pk), person(request), RejectionForm(request.POST)
    if not form.is_valid():
        return _page(request, found, 400, rejection=form)
    found.reject(by, form.cleaned_data["reason"])
    return _go_on(request, by, pk, "Rejected; its author reads your reason.")


def _go_on(request: HttpRequest, reviewer: Person, pk: int, sentence: str) -> HttpResponse:
    """To the next one that waits, so that a reviewer works through them."""
    waiting = Demonstration.objects.for_reviewer(reviewer)
    following = waiting.filter(pk__gt=pk).first() or waiting.first()
    messages.success(request, sentence)
    if following is None:
        return redirect("demonstrations")
    return redirect("demonstration", following.pk)
