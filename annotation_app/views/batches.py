"""Researchers' view of the batches."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from annotation_app import lifecycle
from annotation_app.access import researcher_required
from annotation_app.models import Annotation, Batch, Comparison, Criterion, Strength

PER_PAGE = 25


@require_GET
@researcher_required
def batches(request: HttpRequest) -> HttpResponse:
    rows = Batch.objects.with_progress().order_by("-created_at", "-pk")
    return render(request, "batches/list.html", {"batches": rows, "criteria": Criterion})


@require_GET
@researcher_required
def batch(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Batch.objects.with_progress(), pk=pk)
    work = Annotation.objects.work().filter(comparison__batch=found)
    strengths = dict(work.values_list("strength").annotate(n=Count("pk")))
    mix = [(s.label, strengths.get(s.value, 0)) for s in Strength]
    mix.append(("Unknown", strengths.get("", 0)))
    comparisons = (
        Comparison.objects.filter(batch=found)
        .select_related("prompt", "response_a__checkpoint", "response_b__checkpoint")
        .annotate(answers=Count("annotations"))
        .order_by("pk")
    )
    page = Paginator(comparisons, PER_PAGE).get_page(request.GET.get("page"))
    unusable = (
        Comparison.objects.filter(batch=found)
        .exclude(unusable_reason="")
        .values_list("unusable_reason")
        .annotate(n=Count("pk"))
    )
    context = {"batch": found, "mix": mix, "page": page, "unusable": list(unusable)}
    return render(request, "batches/detail.html", context)


@require_POST
@researcher_required
def open_batch(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Batch, pk=pk)
    found.open()
    messages.success(request, f"{found} is open.")
    return redirect("batches")


@require_POST
@researcher_required
def close_batch(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Batch, pk=pk)
    lifecycle.close_batch(found)
    messages.success(request, f"{found} is closing; training starts when the last lease ends.")
    return redirect("batches")
