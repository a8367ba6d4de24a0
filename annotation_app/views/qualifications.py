"""Qualifications: where one stands, for everyone; what people reached, for reviewers; the
documents, for researchers."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation_app import qualifying
from annotation_app.access import person, researcher_required, reviewer_required, signed_in
from annotation_app.forms import QualificationForm
from annotation_app.models import (
    Attempt,
    AttemptAnswer,
    FurtherAttempt,
    Gate,
    Organisation,
    Person,
    Qualification,
)
from annotation_app.models.attempt import attempts_allowed, refuse_attempt
from annotation_app.models.refusals import NoAttempt

EXAMPLE = settings.BASE_DIR / "demo" / "qualification.json"


@require_GET
@never_cache
@signed_in
def qualifications(request: HttpRequest) -> HttpResponse:
    """Which there are, and how far one has come."""
    who = person(request)
    page: dict[str, Any] = {"ways": qualifying.ways(who)}
    page["skills"] = set(who.skills.values_list("pk", flat=True))
    if who.is_reviewer:
        page["waiting"] = AttemptAnswer.objects.to_grade(who).count()
        page["all"] = Qualification.objects.select_related("skill", "created_by")
    return render(request, "qualifications/list.html", page)


@require_GET
@never_cache
@signed_in
def qualification(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own way through it, gate by gate."""
    found = get_object_or_404(Qualification.objects.with_gates(), pk=pk)
    who = person(request)
    page = {"qualification": found, "way": qualifying.way_of(who, found)}
    page["has_skill"] = who.skills.filter(pk=found.skill_id).exists()
    if not found.is_open:
        page["successor"] = found.successor()
    elif (before := found.before()) is not None:
        page["earlier"] = qualifying.way_of(who, before)
    if who.is_researcher and found.is_open:
        page["left"] = qualifying.left_in(found)
    return render(request, "qualifications/detail.html", page)


@require_GET
@never_cache
@signed_in
def gate(request: HttpRequest, pk: int) -> HttpResponse:
    """What the gate asks for, before its clock starts."""
    found, who = _gate(pk), person(request)
    running = Attempt.objects.running().filter(gate=found, person=who).first()
    if running is not None:
        return redirect("attempt", running.pk)
    try:
        refusal, number = "", refuse_attempt(found, who) + 1
    except NoAttempt as error:
        refusal, number = str(error), 0
    page = {"gate": found, "number": number, "refusal": refusal}
    page["allowed"] = attempts_allowed(found, who)
    if found.shows_safety():
        page["warning"] = Organisation.current().safety_warning
    return render(request, "qualifications/gate.html", page)


def _gate(pk: int) -> Gate:
    return get_object_or_404(Gate.objects.select_related("qualification__skill"), pk=pk)


@require_POST
@signed_in
def begin(request: HttpRequest, pk: int) -> HttpResponse:
    """Start the clock; a second press goes on with the attempt of the first."""
    return redirect("attempt", Attempt.begin(_gate(pk), person(request)).pk)


@require_GET
@never_cache
@reviewer_required
def results(request: HttpRequest, pk: int) -> HttpResponse:
    """Everyone who has tried, gate by gate."""
    found = get_object_or_404(Qualification.objects.with_gates(), pk=pk)
    page = {"qualification": found, "ways": qualifying.ways_through(found)}
    return render(request, "qualifications/results.html", page)


@require_POST
@reviewer_required
def allow_attempt(request: HttpRequest, pk: int, of: int) -> HttpResponse:
    """One more attempt for someone who has used theirs."""
    found, who = _gate(pk), get_object_or_404(Person, pk=of)
    FurtherAttempt.allow(found, who, person(request))
    messages.success(request, f"{who} may try “{found}” once more.")
    return redirect("qualification_results", found.qualification_id)


@require_http_methods(["GET", "POST"])
@researcher_required
def new_qualification(request: HttpRequest) -> HttpResponse:
    """A document: checked completely, then stored as the newest version for its skill."""
    if request.method == "POST":
        form = QualificationForm(request.POST, request.FILES)
        if form.is_valid():
            document = form.cleaned_data["document"]
            current = Qualification.objects.open().filter(skill__name=document.skill).first()
            stored = Qualification.publish(document, person(request))
            messages.success(request, _opened(stored, current))
            return redirect("qualification", stored.pk)
    else:
        text = EXAMPLE.read_text(encoding="utf-8") if "example" in request.GET else ""
        form = QualificationForm(initial={"text": text})
    status = 400 if form.is_bound else 200
    return render(request, "qualifications/new.html", {"form": form}, status=status)


def _opened(stored: Qualification, current: Qualification | None) -> str:
    """What has happened, and to whom of the version before."""
    if stored == current:
        return f"“{stored}”, version {stored.version}, is open as before: it is the same document."
    before, opened = stored.before(), f"“{stored}”, version {stored.version}, is open."
    if before is None:
        return opened
    return f"{opened} Version {before.version} is closed: {qualifying.left_in(before)}"


@require_GET
@researcher_required
def download_qualification(request: HttpRequest, pk: int) -> HttpResponse:
    """The document of this version, with its references."""
    found = get_object_or_404(Qualification.objects.select_related("skill"), pk=pk)
    answer = HttpResponse(found.document().as_text(), content_type="application/json")
    name = f"{slugify(found.skill.name) or 'qualification'}-{found.version}.json"
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


@require_POST
@researcher_required
def close_qualification(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Qualification, pk=pk)
    found.close()
    messages.success(request, f"{found.closed_sentence} Its results stay.")
    return redirect("qualifications")
