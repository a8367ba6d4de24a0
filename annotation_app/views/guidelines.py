"""Guidelines: beside the work for annotators, published by researchers."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation_app.access import known_criterion, person, researcher_required, signed_in
from annotation_app.forms import GuidelineForm
from annotation_app.models import Criterion, Guideline


@require_GET
@never_cache
@signed_in
def guideline(request: HttpRequest, criterion: str) -> HttpResponse:
    """The current version as a part of a page; the judging page fetches it when it has changed."""
    found = Guideline.current(known_criterion(criterion))
    return render(request, "guidelines/_text.html", {"guideline": found})


@require_GET
@researcher_required
def guidelines(request: HttpRequest) -> HttpResponse:
    return guidelines_page(request, {})


def guidelines_page(
    request: HttpRequest, forms: dict[str, GuidelineForm], status: int = 200
) -> HttpResponse:
    """Each criterion's current text with a form for the next, and the versions before it."""
    parts = []
    for criterion in Criterion:
        current = Guideline.current(criterion)
        initial = {"text": current.text, "after": current.version}
        earlier = Guideline.objects.filter(criterion=criterion, version__lt=current.version)
        parts.append(
            {
                "criterion": criterion,
                "guideline": current,
                "form": forms.get(criterion) or GuidelineForm(initial=initial, prefix=criterion),
                "earlier": earlier.select_related("published_by").order_by("-version"),
            }
        )
    return render(request, "guidelines/list.html", {"parts": parts}, status=status)


@require_POST
@researcher_required
def publish_guideline(request: HttpRequest, criterion: str) -> HttpResponse:
    form = GuidelineForm(request.POST, prefix=known_criterion(criterion))
    if not form.is_valid():
        return guidelines_page(request, {criterion: form}, status=400)
    text, after = form.cleaned_data["text"], form.cleaned_data["after"]
    published = Guideline.publish(criterion, text, after, person(request))
    messages.success(request, f"Published: {published}.")
    return redirect("guidelines")
