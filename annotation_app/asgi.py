"""The live process: it streams answers to the pages' scripts, and serves nothing else."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from typing import IO, Any

import django
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotation_app.settings")
django.setup(set_prefix=False)

from annotation_app.access import page_origins  # noqa: E402  (needs the models)
from annotation_app.forms import LONGEST_PROMPT  # noqa: E402

URLS = "annotation_app.live_urls"
MOST_BYTES = 2**19  # of a request: the longest message, with every character escaped
REQUESTS_AT_ONCE = 8  # each has a thread and a database connection until its text streams
MOST_DISCARDED = 2**24  # bytes that are read on: whoever is still sending hears no answer
TOO_LONG = (
    f"The message is too long: at most {LONGEST_PROMPT} characters. Nothing was stored; it is kept "
    "here: shorten it."
)
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class TooLong(Exception):
    """A body of more than MOST_BYTES."""


class LiveHandler(ASGIHandler):
    """Answers the scripts of this site's own pages, which stand at another port or address.

    Django's CSRF check knows the address that was asked only. So the origin is checked here
    first; one of our own then counts as that address, and the token is checked as everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def read_body(self, receive: Receive) -> IO[bytes]:
        """Raises TooLong; Django itself takes a body of any length to the disk."""
        read = 0

        async def receive_some() -> Mapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                await discard_rest(message, receive)
                raise TooLong
            return message

        return await super().read_body(receive_some)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().handle(scope, receive, send)
        except TooLong:
            request, unreadable = self.create_request(scope, BytesIO())
            response = unreadable or JsonResponse({"errors": [TOO_LONG]}, status=413)
            response["Connection"] = "close"
            origin = own_origin(request) if request else ""
            await self.send_response(with_cors(response, origin), send)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path.startswith("/live/"):
            return HttpResponse(status=404)
        request.urlconf = URLS
        request.META["HTTP_ACCEPT"] = "application/json"  # every refusal is for a script
        origin = own_origin(request)
        if origin and request.method == "OPTIONS":
            return with_cors(HttpResponse(status=204), origin)
        if origin:
            request.META["HTTP_ORIGIN"] = f"{request.scheme}://{request.get_host()}"
        async with self.gate:
            response = await super().get_response_async(request)
        return with_cors(response, origin)


async def discard_rest(message: Mapping[str, Any], receive: Receive) -> None:
    left = MOST_DISCARDED
    while message.get("more_body") and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))


def own_origin(request: HttpRequest) -> str:
    """The origin that the request names, if it is one of our pages'; empty otherwise."""
    origin = request.headers.get("Origin", "")
    try:
        return origin if origin in page_origins(request) else ""
    except DisallowedHost:
        return ""


def with_cors(response: HttpResponseBase, origin: str) -> HttpResponseBase:
    patch_vary_headers(response, ["Origin"])
    if origin:
        response["Access-Control-Allow-Origin"] = origin
        response["Access-Control-Allow-Credentials"] = "true"
        response["Access-Control-Allow-Methods"] = "POST"
        response["Access-Control-Allow-Headers"] = "Accept, X-CSRFToken"
        response["Access-Control-Max-Age"] = "600"
    return response


application = LiveHandler()
