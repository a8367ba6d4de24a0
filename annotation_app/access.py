"""Who may see what, and how a refusal looks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, Concatenate, ParamSpec, cast
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, render

from annotation_app.models import Annotation, Attempt, Criterion, Dialogue, Person, leases
from annotation_app.models.refusals import NotAssigned, Refusal

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def _guarded(allowed: Callable[[Person], bool]) -> Callable[[View[P]], View[P]]:
    def guard(view: View[P]) -> View[P]:
        @wraps(view)
        def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return redirect_to_login(_page_to_return_to(request))
            if not allowed(person(request)):
                raise PermissionDenied
            return view(request, *args, **kwargs)

        return cast(View[P], guarded)

    return guard


signed_in = _guarded(lambda who: who.is_active)
reviewer_required = _guarded(lambda who: who.is_reviewer)
researcher_required = _guarded(lambda who: who.is_researcher)
administrator_required = _guarded(lambda who: who.is_administrator)


def _page_to_return_to(request: HttpRequest) -> str:
    """Where somebody goes on who has to sign in first: to the page asked for, or to that from which
    a form came too late."""
    if request.method != "POST" or wants_json(request):
        return request.get_full_path()
    messages.warning(request, "You were signed out, and nothing was changed. Do it again.")
    page = urlsplit(request.headers.get("Referer", ""))
    return (
        urlunsplit(("", "", page.path, page.query, ""))
        if page.netloc == request.get_host()
        else "/"
    )


def person(request: HttpRequest) -> Person:
    """Who is signed in; only called behind a guard."""
    return cast(Person, request.user)


def known_criterion(word: str) -> str:
    """The criterion itself. Raises Http404 where there is none of that name."""
    if word not in Criterion.values:
        raise Http404
    return word


def own_annotation(request: HttpRequest, pk: int) -> Annotation:
    """The annotation with this id. Raises Http404, and NotAssigned when it is someone else's."""
    rows = Annotation.objects.select_related(
        "batch", "comparison__prompt", "comparison__response_a", "comparison__response_b",
    )  # fmt: skip
    annotation = get_object_or_404(rows, pk=pk)
    if annotation.annotator_id != person(request).pk:
        raise NotAssigned("This comparison is reserved for someone else.")
    return annotation


def own_question(request: HttpRequest, pk: int) -> leases.Question:
    """The same without its rows, for the hot path. Raises Http404, and NotAssigned."""
    question = leases.read_question(pk)
    if question is None:
        raise Http404
    if question.annotator != person(request).pk:
        raise NotAssigned("This comparison is reserved for someone else.")
    return question


def own_attempt(request: HttpRequest, pk: int) -> Attempt:
    """One's own attempt at a gate; nobody else's is there. Raises Http404."""
    rows = Attempt.objects.select_related("gate__qualification__skill", "person")
    return get_object_or_404(rows, pk=pk, person=person(request))


def own_dialogue(request: HttpRequest, pk: int) -> Dialogue:
    """The dialogue with this id. Raises Http404, and NotAssigned when it is someone else's."""
    dialogue = get_object_or_404(Dialogue, pk=pk)
    if dialogue.annotator_id != person(request).pk:
        raise NotAssigned("This dialogue belongs to someone else.")
    return dialogue


def live_origin(request: HttpRequest) -> str:
    """Where the script of this page finds the live process."""
    return settings.LIVE_URL or _at_port(request, settings.LIVE_PORT)


def page_origins(request: HttpRequest) -> set[str]:
    """Whose scripts the live process answers: those of this site's own pages, and no others."""
    here = _at_port(request, settings.PORT)
    return {settings.SITE_URL, here, *settings.CSRF_TRUSTED_ORIGINS}


def _at_port(request: HttpRequest, port: int) -> str:
    """The origin that a request came to, at another port. Raises DisallowedHost."""
    host = re.sub(r":\d+$", "", request.get_host())
    usual = {"http": 80, "https": 443}[request.scheme or "http"]
    return f"{request.scheme}://{host}" + ("" if port == usual else f":{port}")


def wants_json(request: HttpRequest) -> bool:
    """Whether a page's script asks, and not the browser for a page."""
    return request.headers.get("Accept") == "application/json"


class RefusalMiddleware:
    """Turns what the domain refuses into a page with its sentence, and a form's address that was
    opened as a page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED and not wants_json(request):
            sentence = (
                f"{request.path} was asked with {request.method}, allowed is "
                f"{response.headers['Allow']}: nothing was changed."
            )
            page = refusal_page(request, sentence, response.status_code)
            page.headers["Allow"] = response.headers["Allow"]
            return page
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> Any:
        if isinstance(exception, Refusal):
            if wants_json(request):
                return JsonResponse({"errors": [str(exception)]}, status=exception.status)
            return refusal_page(request, str(exception), exception.status)
        return None


def refusal_page(request: HttpRequest, sentence: str, status: int) -> HttpResponse:
    return render(request, "refusal.html", {"sentence": sentence}, status=status)
