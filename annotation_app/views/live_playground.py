"""What the live process answers to the playground: both answers, then their scores."""

from __future__ import annotations

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from annotation_app import playground
from annotation_app.access import person
from annotation_app.forms import TalkForm
from annotation_app.views.live import (
    for_people,
    in_sentences,
    refuse_unreadable,
    refused,
    stream,
)


@for_people
def ask(request: HttpRequest) -> HttpResponseBase:
    """A message, with the settings and all that was said before; for researchers."""
    if not person(request).is_researcher:
        return refused("The playground is for researchers.", 403)
    refuse_unreadable(request)
    form = TalkForm(request.POST, chat_models=playground.chat_models())
    if not form.is_valid():
        return refused(in_sentences(form), 400)
    return stream(playground.events(playground.begin(person(request), form.cleaned_data)))
