"""Downloads of what was collected beside preferences."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app.access import researcher_required
from annotation_app.exports import FILES, lines
from annotation_app.models import Demonstration


@require_GET
@never_cache
@researcher_required
def exports(request: HttpRequest) -> HttpResponse:
    """What each file holds now, and what waits before it."""
    page = {
        "files": [(name, file.what, file.line_count()) for name, file in FILES.items()],
        "waiting_count": Demonstration.objects.waiting().count(),
    }
    return render(request, "exports/list.html", page)


@require_GET
@never_cache
@researcher_required
def export(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """One file, written as it is read. Raises Http404."""
    if name not in FILES:
        raise Http404
    return StreamingHttpResponse(
        lines(name),
        content_type="application/jsonl; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
