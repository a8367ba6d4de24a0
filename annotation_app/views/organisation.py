"""What the organisation has decided for everyone."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from annotation_app.access import administrator_required
from annotation_app.forms import OrganisationForm
from annotation_app.models import Organisation


@require_http_methods(["GET", "POST"])
@administrator_required
def organisation(request: HttpRequest) -> HttpResponse:
    form = OrganisationForm(request.POST or None, instance=Organisation.current())
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved.")
        return redirect("organisation")
    status = 400 if form.is_bound else 200
    return render(request, "people/organisation.html", {"form": form}, status=status)
