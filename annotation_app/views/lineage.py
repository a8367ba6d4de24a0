"""From a checkpoint back to the runs, batches and people behind it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app import lineage as behind
from annotation_app.access import researcher_required
from annotation_app.models import Checkpoint


@require_GET
@never_cache
@researcher_required
def lineage(request: HttpRequest, pk: int) -> HttpResponse:
    rows = Checkpoint.objects.select_related("run__round")
    found = get_object_or_404(rows.defer("run__round__evaluation", "run__round__config"), pk=pk)
    led = behind.lineage(found)
    annotations = behind.annotations_of(led.snapshots)
    page: dict[str, Any] = {
        "checkpoint": found,
        "lineage": led,
        "totals": behind.totals(annotations),
        "criteria": behind.by_criterion(annotations),
        "batches": behind.by_batch(annotations),
        "columns": behind.OWN_BATCHES,
    }
    return render(request, "models/lineage.html", page)


@require_GET
@never_cache
@researcher_required
def lineage_batches(request: HttpRequest, pk: int) -> HttpResponse:
    """The batches behind it as CSV."""
    led = behind.lineage(get_object_or_404(Checkpoint, pk=pk))
    return behind.batches_table(behind.by_batch(behind.annotations_of(led.snapshots))).csv()
