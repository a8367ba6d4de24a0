"""One comparison, and the reference comparisons: those with a known answer."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import Count, F, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app.access import person, researcher_required, reviewer_required
from annotation_app.forms import PriorityForm, ReferenceForm
from annotation_app.models import Annotation, Comparison, Reference
from annotation_app.quality import Share

MOST_SUGGESTED = 20


@require_GET
@never_cache
@reviewer_required
def comparison(request: HttpRequest, pk: int) -> HttpResponse:
    return _page(request, _found(pk), ReferenceForm())


def _found(pk: int) -> Comparison:
    rows = Comparison.objects.select_related(
        "batch", "prompt", "response_a", "response_b", "reference"
    )
    return get_object_or_404(rows, pk=pk)


def _page(
    request: HttpRequest, found: Comparison, form: ReferenceForm, status: int = 200
) -> HttpResponse:
    answers = found.annotations.exclude(recorded_at=None).select_related("annotator")
    page = {
        "comparison": found,
        "reference": Reference.objects.filter(comparison=found).first(),
        "answers": answers.order_by("recorded_at"),
        "form": form,
        "priority": PriorityForm(instance=found),
    }
    return render(request, "comparisons/detail.html", page, status=status)


@require_POST
@reviewer_required
def set_reference(request: HttpRequest, pk: int) -> HttpResponse:
    """Say which response is better, so that skill can be measured on this comparison."""
    found, form = _found(pk), ReferenceForm(request.POST)
    if not form.is_valid():
        return _page(request, found, form, status=400)
    Reference.set(found, by=person(request), **form.cleaned_data)
    messages.success(request, "From now on it is served as a reference comparison.")
    return redirect("comparison", pk)


@require_POST
@reviewer_required
def retire_reference(request: HttpRequest, pk: int) -> HttpResponse:
    get_object_or_404(Reference, comparison=pk).retire()
    messages.success(request, "It is served no more; what was answered still counts.")
    return redirect("comparison", pk)


@require_POST
@researcher_required
def set_priority(request: HttpRequest, pk: int) -> HttpResponse:
    """Which comparisons of a batch are given first: those of the highest priority."""
    found = _found(pk)
    form = PriorityForm(request.POST, instance=found)
    if not form.is_valid():
        return _page(request, found, ReferenceForm(), status=400)
    form.save()
    messages.success(request, f"{found} now has priority {found.priority}.")
    return redirect("comparison", pk)


@require_GET
@never_cache
@reviewer_required
def references(request: HttpRequest) -> HttpResponse:
    """Every reference with how often it is answered as expected; and which could become one."""
    recorded = Q(
        comparison__annotations__purpose=Annotation.Purpose.REFERENCE,
        comparison__annotations__state=Annotation.State.RECORDED,
    )
    right = recorded & Q(comparison__annotations__choice=F("choice"))
    answers = {
        pk: Share.of(n_right, n)
        for pk, n_right, n in Reference.objects.values_list("pk").annotate(
            n_right=Count("comparison__annotations", filter=right),
            n=Count("comparison__annotations", filter=recorded),
        )
    }
    rows = Reference.objects.select_related("comparison__prompt", "set_by")
    rows = rows.order_by(F("retired_at").desc(nulls_first=True), "-pk")
    page = {
        "references": [(row, answers[row.pk]) for row in rows],
        "suggested": Comparison.objects.unanimous().select_related("prompt", "batch")[
            :MOST_SUGGESTED
        ],
    }
    return render(request, "comparisons/references.html", page)
