"""The playground's page; what streams to it comes from the live process."""

from __future__ import annotations

from csp.decorators import csp_update
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app import playground as talks
from annotation_app.access import live_origin, researcher_required
from annotation_app.forms import MOST_TOKENS, PlaygroundForm
from annotation_app.models import Checkpoint, Release
from annotation_app.views.dialogues import LIVE


@require_GET
@never_cache
@researcher_required
def playground(request: HttpRequest) -> HttpResponse:
    """An empty talk, with the settings that its address names."""
    models = talks.chat_models()
    released = list(Release.objects.current().values_list("checkpoint", flat=True))
    given = {**_usual(talks.usual_models(models, released)), **request.GET.dict()}
    page = {
        "form": PlaygroundForm(given, chat_models=models, released=released),
        "models": models,
        "rewards": talks.rewards_in_force(),
        "threshold": talks.threshold(),
        "live": live_origin(request),
        "ask": reverse("ask_live", LIVE),
    }
    shown = render(request, "playground/playground.html", page)
    csp_update({"connect-src": [page["live"]]})(lambda request: shown)(request)
    return shown


def _usual(models: list[Checkpoint]) -> dict[str, str]:
    """The settings of an address that names none."""
    return {
        "temperature": str(settings.HIGH_TEMPERATURE),
        "top_p": str(settings.TOP_P),
        "max_tokens": str(min(settings.SAMPLER_MAX_TOKENS, MOST_TOKENS)),
        **{side: str(model.pk) for side, model in zip(("left", "right"), models, strict=False)},
    }
