"""Texts that wait for a grade, without their authors' names."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from annotation_app.access import person, reviewer_required
from annotation_app.forms import GRADES, GradeForm, GradingStepForm
from annotation_app.models import Attempt, AttemptAnswer, Grade
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
    given = Grade.objects.not_announced(person(request)).select_related("graded_by", "answer")
    page["given"] = given[:SHOWN]
    return render(request, "qualifications/grading.html", page)


@require_http_methods(["GET", "POST"])
@never_cache
@reviewer_required
def grade(request: HttpRequest, pk: int) -> HttpResponse:
    """One text: a grade and a comment, then the next; or another grade, until it is announced."""
    found, who = _text(pk), person(request)
    if found.attempt.person_id == who.pk:
        raise NotAssigned("Nobody grades their own texts.")
    if request.method == "GET":
        given = found.grade.comment if found.grade else ""
        return _page(request, found, GradeForm(initial={"comment": given}))
    form, step = GradeForm(request.POST), GradingStepForm(request.POST)
    if not form.is_valid() or not step.is_valid():
        return _page(request, found, form, status=400)
    value, comment = form.cleaned_data["grade"], form.cleaned_data["comment"]
    if step.cleaned_data["corrects"]:
        get_object_or_404(Grade, pk=step.cleaned_data["corrects"], answer=found).correct(
            value, who, comment
        )
        messages.success(request, f"Corrected: the grade is {value} now.")
        return redirect("grading")
    waits = found.attempt.state == Attempt.State.WAITING and found.grade is None
    is_sure = step.cleaned_data["sure"] == value
    if waits and not is_sure and (result := found.last_to_grade(value)):
        return _page(request, found, form, result=result)
    Grade.give(found, value, who, comment)
    messages.success(request, f"Graded {value}.")
    following = AttemptAnswer.objects.to_grade(who).first()
    return redirect("grade", following.pk) if following else redirect("grading")


def _text(pk: int) -> AttemptAnswer:
    """A written text. Raises Http404."""
    rows = AttemptAnswer.objects.given().select_related(
        "question", "attempt__gate__qualification", "attempt__person"
    )
    rows = rows.prefetch_related("grades__graded_by")
    return get_object_or_404(rows, pk=pk, attempt__gate__kind="writing")


def _page(
    request: HttpRequest, found: AttemptAnswer, form: GradeForm, *, result: str = "",
    status: int = 200,
) -> HttpResponse:  # fmt: skip
    """The page; with ``result`` it asks once more before that is announced."""
    page = {"answer": found, "form": form, "grades": GRADES.items(), "result": result}
    page["is_waiting"] = found.attempt.state == Attempt.State.WAITING
    page["left"] = AttemptAnswer.objects.to_grade(person(request)).count()
    return render(request, "qualifications/grade.html", page, status=status)
