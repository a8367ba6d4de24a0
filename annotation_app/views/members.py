"""One annotator's work as a reviewer sees it, and what the reviewer decides about it."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app import quality
from annotation_app import team as work
from annotation_app.access import person, refusal_page, reviewer_required
from annotation_app.forms import ExclusionForm, PauseForm
from annotation_app.models import Annotation, Organisation, Person

NEWEST = 20
DAYS = 30


@require_GET
@never_cache
@reviewer_required
def member(request: HttpRequest, pk: int) -> HttpResponse:
    return _page(request, get_object_or_404(Person, pk=pk), ExclusionForm())


def _page(
    request: HttpRequest, who: Person, form: ExclusionForm, *, chosen: int = 0, status: int = 200
) -> HttpResponse:
    """The page; with ``chosen`` it asks once more before that many answers are excluded."""
    since = quality.since(who, timezone.now())
    mine = Annotation.objects.without_corrections().filter(annotator=who)
    counted = mine.filter(leased_at__gte=since)
    found = quality.quality_by_annotator(counted).get(who.pk, quality.UNKNOWN)
    answered = mine.filter(purpose=Annotation.Purpose.REFERENCE).exclude(recorded_at=None)
    page = {
        "who": who,
        "since": since,
        "quality": found,
        "looks_like_chance": quality.why_pause(found, Organisation.current()),
        "figures": next(iter(work.annotator_figures(mine.filter(leased_at__gte=since))), None),
        "days": {day: n for day, n in work.per_day(mine, DAYS).items() if n},
        "references": answered.select_related("comparison__prompt", "comparison__reference")
        .filter(comparison__reference__isnull=False)
        .order_by("-recorded_at")[:NEWEST],
        "form": form,
        "chosen": chosen,
    }
    return render(request, "team/member.html", page, status=status)


@require_POST
@reviewer_required
def pause_member(request: HttpRequest, pk: int) -> HttpResponse:
    who, form = get_object_or_404(Person, pk=pk), PauseForm(request.POST)
    if not form.is_valid():
        return refusal_page(request, str(form.errors["reason"][0]), 400)
    who.pause(form.cleaned_data["reason"])
    messages.success(request, f"{who} gets no more work until the pause is ended.")
    return redirect("member", who.pk)


@require_POST
@reviewer_required
def resume_member(request: HttpRequest, pk: int) -> HttpResponse:
    who = get_object_or_404(Person, pk=pk)
    who.resume()
    messages.success(request, f"{who} gets work again.")
    return redirect("member", who.pk)


@require_POST
@reviewer_required
def exclude_work(request: HttpRequest, pk: int) -> HttpResponse:
    """Exclude what someone recorded on some days; asked twice, since it cannot be taken back."""
    who, form = get_object_or_404(Person, pk=pk), ExclusionForm(request.POST)
    if not form.is_valid():
        return _page(request, who, form, status=400)
    since, before = form.cleaned_data["since"], form.cleaned_data["until"] + timedelta(days=1)
    chosen = Annotation.objects.work().filter(
        annotator=who, recorded_at__date__gte=since, recorded_at__date__lt=before
    )
    if not form.cleaned_data["sure"]:
        if count := chosen.count():
            return _page(request, who, form, chosen=count)
        form.add_error(None, f"{who} recorded no work on these days.")
        return _page(request, who, form, status=400)
    count = chosen.exclude_each(f"{form.cleaned_data['reason']} ({person(request)})")
    messages.success(request, f"{count} answers are excluded; no model will be trained on them.")
    return redirect("member", who.pk)
