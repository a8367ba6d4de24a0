"""Releases of chat models: put a round's model before annotators, or hold it back."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from annotation_app import lifecycle
from annotation_app.access import person, researcher_required
from annotation_app.models import Round


@require_POST
@researcher_required
def release_round(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Round, pk=pk)
    lifecycle.release_round(found, person(request))
    messages.success(request, f"{found} is released; the next batches are being filled from it.")
    return redirect("round", pk)


@require_POST
@researcher_required
def hold_round(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Round, pk=pk)
    found.hold()
    messages.success(request, f"{found} is held back.")
    return redirect("round", pk)
