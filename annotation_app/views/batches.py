"""Researchers' view of the batches."""

from __future__ import annotations

from collections import Counter

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from annotation_app.access import refusal_page, researcher_required
from annotation_app.forms import BatchForm
from annotation_app.lifecycle import training
from annotation_app.models import Annotation, Batch, Comparison, Criterion, Strength

PER_PAGE = 25
SAFETY_LABELS = ("chosen safe", "both safe", "both unsafe")


@require_GET
@researcher_required
def batches(request: HttpRequest) -> HttpResponse:
    progress = Batch.objects.with_progress().with_filling()
    rows = progress.order_by(F("closed_at").desc(nulls_first=True), "-pk")
    page = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "batches/list.html", {"page": page, "criteria": Criterion})


@require_GET
@researcher_required
def batch(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Batch.objects.with_progress().select_related("round"), pk=pk)
    work = Annotation.objects.work().filter(batch=found)
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
    annotators = work.values("annotator").distinct().count()
    unusable = (
        Comparison.objects.filter(batch=found)
        .exclude(unusable_reason="")
        .values_list("unusable_reason")
        .annotate(n=Count("pk"))
    )
    context = {"batch": found, "mix": mix, "page": page, "unusable": list(unusable)}
    context |= {"annotators": annotators, "safety": _safety_table(work)}
    context["form"] = BatchForm(instance=found)
    return render(request, "batches/detail.html", context)


def _safety_table(work: QuerySet[Annotation]) -> list[tuple[str, list[int]]]:
    """A row for each strength: how often chosen safe, both safe, both unsafe."""
    counts: Counter[tuple[str, str]] = Counter()
    rows = work.filter(a_safe__isnull=False, b_safe__isnull=False)
    for strength, a_safe, b_safe, n in rows.values_list("strength", "a_safe", "b_safe").annotate(
        n=Count("pk")
    ):
        label = "chosen safe" if a_safe != b_safe else "both safe" if a_safe else "both unsafe"
        counts[strength, label] += n
    if not counts:
        return []
    return [(str(s.label), [counts[s.value, label] for label in SAFETY_LABELS]) for s in Strength]


@require_POST
@researcher_required
def set_work(request: HttpRequest, pk: int) -> HttpResponse:
    """Who works on the batch, and how much of it each."""
    found = get_object_or_404(Batch, pk=pk)
    form = BatchForm(request.POST, instance=found)
    if not form.is_valid():
        sentence = " ".join(str(e) for errors in form.errors.values() for e in errors)
        return refusal_page(request, sentence, 400)
    form.save()
    messages.success(request, "Saved.")
    return redirect("batch", pk)


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
    training.close_batch(found)
    follows = "its figures join the round's" if found.round_id else "training starts"
    messages.success(request, f"{found} is closing; {follows} when the last lease ends.")
    return redirect("batches")
