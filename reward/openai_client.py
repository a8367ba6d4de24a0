"""Questions to an OpenAI-compatible server over HTTP: the one client of judges and samplers.

A server may be slow, busy, gone or hostile. Only the address that was given is called: no proxy of
the environment, no redirect. Of an answer no more than LONGEST_BODY is read, and nothing after its
time is over, however it trickles in. Whatever comes is the first choice of an answer, or an error
that says in words what came instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

import httpx

from reward.addresses import refuse_odd_address

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LONGEST_BODY = 20_000_000  # bytes; 50,000 tokens with their log-probabilities are half of it
LONGEST_PAUSE_SECONDS = 60.0
LATER = (408, 409, 429)  # not now: asked again, as after an error of the server's own
SHOWN = 300  # characters of a server's words
HALF_PAIR = re.compile("[\ud800-\udfff]")  # halves of surrogate pairs, which no UTF-8 can hold

T = TypeVar("T")


class Unanswered(ConnectionError):
    """Asked as often as allowed, the server gave no answer that can be read; says what it gave."""


class Declined(RuntimeError):
    """The server refuses a request, and would again; says its status and its own words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status} {words}".strip())
        self.status = status


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Server:
    """An OpenAI-compatible server, for so many threads at once; connected while its ``with`` block
    runs.

    Raises ValueError for an ``address`` that is none, or that holds a key: ``key_variable`` names
    the environment variable for it.
    """

    def __init__(
        self,
        address: str,
        key_variable: str,
        *,
        timeout_seconds: float,
        attempts: int,
        parallel_requests: int,
    ) -> None:
        self.url = base_url(address, key_variable)
        self.timeout_seconds = timeout_seconds
        self.attempts = attempts
        self.parallel_requests = parallel_requests
        self._headers = {"Content-Type": "application/json", **_authorisation(key_variable)}

    def __enter__(self) -> Server:
        self._client = httpx.AsyncClient(
            headers=self._headers,
            timeout=None,  # _post has one for all of a request
            limits=httpx.Limits(
                max_connections=self.parallel_requests,
                max_keepalive_connections=self.parallel_requests,
            ),
            verify=httpx.create_ssl_context(),  # SSL_CERT_FILE counts
            trust_env=False,
            follow_redirects=False,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._wait_for(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, path: str, request: Mapping[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """What ``read`` takes from the first choice of the answer; it raises ValueError for one
        without what is wanted.

        Where no answer comes, none that can be read, or the server is at fault or busy, it is asked
        again after 1, 2, 4 … seconds, later where it says so itself. Raises Unanswered in the end,
        Declined at once.
        """
        problem, pause = "", 0.0
        for attempt in range(self.attempts):
            time.sleep(min(LONGEST_PAUSE_SECONDS, pause))
            pause = float(2 ** min(attempt, 6))
            try:
                reply = self._wait_for(self._post(path, json.dumps(request).encode()))
            except TimeoutError:
                problem = f"not whole after {self.timeout_seconds:g} s"
                continue
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__} {error}".strip()
                continue
            if 200 <= reply.status < 300:
                try:
                    return read(first_choice(reply.body))
                except ValueError as error:
                    problem = f"{reply.status} {error}: {_words(reply.body)}"
            elif reply.status >= 500 or reply.status in LATER:
                problem = f"{reply.status} {_words(reply.body)}"
                pause = max(pause, _seconds_to_wait(reply))
            else:
                raise Declined(reply.status, _why_declined(reply))
        raise Unanswered(problem.strip())

    async def _post(self, path: str, content: bytes) -> Reply:
        """Raises TimeoutError where it is not over in time, from connecting to the last byte."""
        body = bytearray()
        async with (
            asyncio.timeout(self.timeout_seconds),
            self._client.stream("POST", self.url + path, content=content) as response,
        ):
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > LONGEST_BODY:
                    raise httpx.DecodingError(f"more than {LONGEST_BODY} bytes")
        return Reply(response.status_code, response.headers, bytes(body))

    def _wait_for(self, act: Coroutine[Any, Any, T]) -> T:
        running = asyncio.run_coroutine_threadsafe(act, self._loop)
        try:
            return running.result()
        finally:
            running.cancel()  # where who waits is interrupted


def base_url(address: str, key_variable: str) -> str:
    """The address without a path of its own. Raises ValueError for one that is none, or holds a
    key."""
    refuse_odd_address("address", address, key_variable)
    try:
        httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ValueError(f"address is {address!r}, which is none: {error}") from None
    return address.rstrip("/").removesuffix("/v1")


def _authorisation(key_variable: str) -> dict[str, str]:
    """Raises ValueError for a key that no header can hold, without showing it."""
    key = os.environ.get(key_variable, "")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{key_variable} is no key, allowed are printable ASCII characters")
    return {"Authorization": f"Bearer {key}"} if key else {}


def first_choice(body: bytes) -> dict[str, Any]:
    """Raises ValueError for anything else than an answer with a choice."""
    try:
        choice = json.loads(body)["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        choice = None
    if not isinstance(choice, dict):
        raise ValueError("without a choice")
    return choice


def message_text(choice: Mapping[str, Any]) -> str | None:
    """The text of a choice's message, all parts of it where it comes in parts, with U+FFFD for what
    no UTF-8 can hold; None where its content is null.

    Raises ValueError where there is no message, or one that is more than text.
    """
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError("without a message")
    content = message.get("content")
    if content is None:
        return None
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [_part_text(part) for part in parts]
    return HALF_PAIR.sub("\ufffd", "".join(texts))


def _part_text(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise ValueError("with a message that is not all text")
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError("with a message that is not all text")
    return text


def _seconds_to_wait(reply: Reply) -> float:
    after = reply.headers.get("Retry-After", "")
    return float(after) if after.isdecimal() else 0.0


def _why_declined(reply: Reply) -> str:
    if reply.status < 400:
        return f"sends to {reply.headers.get('Location', '')[:SHOWN]!r}, which is not called"
    return _words(reply.body)


def _words(body: bytes) -> str:
    """The beginning of a body, on one line."""
    text = body[: 4 * SHOWN].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:SHOWN]
