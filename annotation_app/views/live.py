"""What the live process answers: a stream of events for a message, and a stop."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast
from urllib.parse import unquote_to_bytes
from uuid import UUID

from django.core.exceptions import BadRequest
from django.db import connection
from django.forms import Form
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from annotation_app import live
from annotation_app.access import own_dialogue, person
from annotation_app.forms import FirstMessageForm, MessageForm
from annotation_app.models import RunningTurn
from annotation_app.models.refusals import BatchClosed
from annotation_app.views.annotate import open_batch
from annotation_app.views.dialogues import standing_or_404

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def for_people(view: View[P]) -> View[P]:
    """Only for those who are signed in; the thread's connection ends before the text streams."""

    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            if not request.user.is_authenticated:
                return refused("You are signed out. Sign in again in another tab.", 403)
            return view(request, *args, **kwargs)
        finally:
            connection.close()

    return cast(View[P], guarded)


@for_people
def begin(request: HttpRequest, criterion: str) -> HttpResponseBase:
    """The first message of a dialogue."""
    refuse_unreadable(request)
    return _ask(request, criterion, None, FirstMessageForm(request.POST))


@for_people
def go_on(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Another message, after the answer that was chosen last."""
    refuse_unreadable(request)
    standing = standing_or_404(own_dialogue(request, pk))
    if standing.judged is None and standing.waiting is None:
        return refused("No answer of this dialogue was chosen: begin a new one.", 409)
    return _ask(request, standing.criterion, standing, MessageForm(request.POST))


def refuse_unreadable(request: HttpRequest) -> None:
    """Raises BadRequest for what Django would take for an empty form, or for other characters."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise BadRequest("not a form")
    try:
        unquote_to_bytes(request.body).decode()
    except UnicodeDecodeError:
        raise BadRequest("not UTF-8") from None


def _ask(
    request: HttpRequest, criterion: str, before: live.Standing | None, form: MessageForm
) -> HttpResponseBase:
    batch = open_batch(criterion)
    if batch is None:
        raise BatchClosed(f"No {criterion} batch is open now. Nothing was stored.")
    if not form.is_valid():
        return refused(in_sentences(form), 400)
    turn = live.begin_turn(person(request), batch, before, **form.cleaned_data)
    return stream(live.events(turn))


def in_sentences(form: Form) -> str:
    """All that is wrong with a form, once each."""
    found = (str(error) for errors in form.errors.values() for error in errors)
    return " ".join(dict.fromkeys(found))


def stream(events: AsyncGenerator[live.Event, None]) -> StreamingHttpResponse:
    """Events as they come, a line each; a page that leaves closes them."""
    response = StreamingHttpResponse(_lines(events), content_type="application/x-ndjson")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx would keep it until the end
    return response


async def _lines(events: AsyncGenerator[live.Event, None]) -> AsyncIterator[str]:
    async with aclosing(events):
        async for event in events:
            yield json.dumps(event) + "\n"


@for_people
def stop(request: HttpRequest, pk: UUID) -> HttpResponseBase:
    """End one's own turn where it is."""
    get_object_or_404(RunningTurn, pk=pk, annotator=person(request)).stop()
    return HttpResponse(status=204)


# --- refusals, for a script ----------------------------------------------------------------------


def refused(sentence: str, status: int) -> JsonResponse:
    return JsonResponse({"errors": [sentence]}, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    sentence = (
        "The message cannot be read. Nothing was stored; it is kept here: reload the page and send "
        "it again."
    )
    return refused(sentence, 400)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return refused("This is not for you.", 403)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return refused("There is nothing here any more.", 404)


def failed(request: HttpRequest, *args: Any) -> HttpResponse:
    return refused("Something went wrong on the server. Nothing was stored; try again.", 500)
