"""Texts that wait for a grade, without their authors' names."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from annotation_app.access import person, reviewer_required
from annotation_app.forms import GRADES, GradeForm
from annotation_app.models import AttemptAnswer
from annotation_app.models.refusals import NotAssigned

SHOWN = 100


@require_GET
@never_cache
@reviewer_required
def grading(request: HttpRequest) -> HttpResponse:
    """The queue, oldest first."""
    waiting = AttemptAnswer.objects.to_grade(person(request))
    rows = waiting.select_related("question", "attempt__gate__qualification")
    page = {"waiting": rows[:SHOWN], "count": waiting.count(), "shown": SHOWN}
    return render(request, "qualifications/grading.html", page)


@require_http_methods(["GET", "POST"])
@never_cache
@reviewer_required
def grade(request: HttpRequest, pk: int) -> HttpResponse:
    """One text: a grade and a comment, then the next."""
    rows = AttemptAnswer.objects.given().select_related(
        "question", "attempt__gate__qualification", "attempt__person"
    )
    found, who = get_object_or_404(rows, pk=pk, attempt__gate__kind="writing"), person(request)
    if found.attempt.person_id == who.pk:
        raise NotAssigned("Nobody grades their own texts.")
    form = GradeForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        comment = form.cleaned_data["comment"]
        found.give_grade(form.cleaned_data["grade"], who, comment)
        messages.success(request, f"Graded {found.grade}.")
        following = AttemptAnswer.objects.to_grade(who).first()
        return redirect("grade", following.pk) if following else redirect("grading")
    page = {"answer": found, "form": form, "grades": GRADES.items()}
    page["left"] = AttemptAnswer.objects.to_grade(who).count()
    status = 400 if form.is_bound else 200
    return render(request, "qualifications/grade.html", page, status=status)
