"""Reward models over HTTP: ``python -m reward.serve``. docs/reward-server.md says what it answers.

A model is a folder below ``root`` that a request names. torch and the model are loaded with the
first question, so an idle server is small. Whoever reaches the port may ask anything: names that
leave the root, bodies without end and conversations that are none are refused with a sentence.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import sys
import threading
from collections import OrderedDict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from reward.command import command
from reward.config import ServeConfig
from reward.preferences import Message

if TYPE_CHECKING:
    from reward.score import Scorer

KEY_VARIABLE = "SCORER_API_KEY"
MOST_BYTES = 2**23  # of a request
MOST_DISCARDED = 2**26  # bytes of a refused one that are read on: who still sends hears no answer
MOST_CONVERSATIONS = 4096
MOST_REQUESTS = 64  # that are answered or wait
SILENCE_SECONDS = 30  # a peer that says nothing for so long is left
LONGEST_NAME = 500
ROLES = ("system", "user", "assistant")
STUMBLES = (RuntimeError, TypeError, LookupError, AttributeError, AssertionError, OSError)
"""What a folder that is no sound reward model raises from within, a lack of memory included."""


class NotScored(Exception):
    """A request that gets no scores; its text is a sentence for who asked."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Question(NamedTuple):
    """What is asked: the model's name, and conversations that each end with an answer."""

    model: str
    conversations: list[list[Message]]


# --- the models ----------------------------------------------------------------------------------


class Loaded(NamedTuple):
    version: object
    scorer: Scorer


class Models:
    """The reward models below a folder: those asked for last stay loaded, one computes at a time.

    A folder whose files have changed is loaded anew.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.root = config, config.root.resolve()
        self.loaded: OrderedDict[Path, Loaded] = OrderedDict()
        self.lock = threading.Lock()

    def scores(self, asked: Question) -> list[float]:
        """One raw score for each conversation. Raises NotScored."""
        folder = self.folder(asked.model)
        try:
            with self.lock:
                found: list[float] = self._scorer(folder)(asked.conversations).tolist()
                return found
        except ValueError as error:
            raise NotScored(HTTPStatus.UNPROCESSABLE_ENTITY, _without(folder, error)) from None
        except STUMBLES as error:
            print(f"{asked.model}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            why = f"{asked.model} cannot score this: {type(error).__name__}: "
            raise NotScored(
                HTTPStatus.INTERNAL_SERVER_ERROR, why + _without(folder, error)
            ) from None

    def folder(self, name: str) -> Path:
        """Raises NotScored for a name that leaves the root, or where no model lies."""
        try:
            found = (self.root / name).resolve()
            is_there = found.is_relative_to(self.root) and (found / "config.json").is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
            is_there = False
        if not is_there:
            raise NotScored(HTTPStatus.NOT_FOUND, f"There is no model {name!r} here.")
        return found

    def _scorer(self, folder: Path) -> Scorer:
        """The folder's model; the one asked for longest ago makes room before it is loaded."""
        version = _version(folder)
        known = self.loaded.pop(folder, None)
        if known is None or known.version != version:
            known = None
            while len(self.loaded) >= self.config.models:
                self.loaded.popitem(last=False)
            known = Loaded(version, self._load(folder))
        self.loaded[folder] = known
        return known.scorer

    def _load(self, folder: Path) -> Scorer:
        from reward.score import Scorer  # here: it brings torch

        config = self.config
        return Scorer(folder, config.device, config.dtype, config.tokens_per_minibatch)


def _version(folder: Path) -> object:
    """Something that is another one as soon as a file of the folder is."""
    files = sorted(folder.iterdir())
    return [(f.name, s.st_ino, s.st_size, s.st_mtime_ns) for f in files for s in [f.stat()]]


def _without(folder: Path, error: Exception) -> str:
    """What an error says, without where the folder lies."""
    said = " ".join(str(error).split()).replace(str(folder), folder.name)
    return said[:500]


# --- the question --------------------------------------------------------------------------------


def question(asked: Any) -> Question:
    """What a request's JSON asks. Raises NotScored naming what does not fit."""
    if not isinstance(asked, dict) or asked.keys() != {"model", "conversations"}:
        raise _malformed("The request", "a JSON object {model, conversations}")
    model, conversations = asked["model"], asked["conversations"]
    if not isinstance(model, str) or not 0 < len(model) <= LONGEST_NAME:
        raise _malformed("model", f"a name of up to {LONGEST_NAME} characters")
    if not isinstance(conversations, list) or not 0 < len(conversations) <= MOST_CONVERSATIONS:
        raise _malformed("conversations", f"a list of 1 to {MOST_CONVERSATIONS}")
    return Question(model, [_conversation(n, c) for n, c in enumerate(conversations, start=1)])


def _conversation(number: int, given: Any) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise _malformed(f"conversation {number}", "a list of {role, content} messages")
    messages = [_message(number, item) for item in given]
    if messages[-1].role != "assistant":
        raise _malformed(f"conversation {number}", "one that ends with an assistant's answer")
    return messages


def _message(number: int, given: Any) -> Message:
    role, content = (given.get(k) if isinstance(given, dict) else None for k in Message._fields)
    if role not in ROLES or not isinstance(content, str) or not _is_text(content):
        raise _malformed(
            f"a message of conversation {number}",
            "{role, content} with the role system, user or assistant and a text",
        )
    return Message(role, content)


def _is_text(content: str) -> bool:
    """JSON can also hold halves of surrogate pairs."""
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


def _malformed(what: str, allowed: str) -> NotScored:
    return NotScored(HTTPStatus.BAD_REQUEST, f"{what} cannot be read, allowed is {allowed}.")


# --- over HTTP -----------------------------------------------------------------------------------


class RewardServer(ThreadingHTTPServer):
    """A thread for each request, up to MOST_REQUESTS; the models have one lock."""

    daemon_threads = True
    request_queue_size = MOST_REQUESTS

    def __init__(self, config: ServeConfig, key: str = "") -> None:
        self.models, self.key = Models(config), key
        self.places = threading.BoundedSemaphore(MOST_REQUESTS)
        try:
            super().__init__((config.host, config.port), Handler)
        except OSError as error:
            raise ValueError(
                f"{config.host} port {config.port} cannot be listened on: {error.strerror}"
            ) from None

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            request.setblocking(False)
            request.send(b"HTTP/1.0 503 Too many requests wait\r\n\r\n")
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked has gone
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """GET /health, POST /score; one request on each connection."""

    server: RewardServer
    timeout = SILENCE_SECONDS
    unread = 0

    def do_GET(self) -> None:
        if self.path == "/health":
            loaded = len(self.server.models.loaded)
            self._answer(HTTPStatus.OK, {"status": "ok", "loaded": loaded})
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        try:
            length = self._length()
            self._refuse_strangers()
            asked = question(self._json(length))
            self._answer(HTTPStatus.OK, {"scores": self.server.models.scores(asked)})
        except NotScored as refusal:
            self._discard_rest()
            self._answer(refusal.status, {"error": str(refusal)})

    def _length(self) -> int:
        given = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", given):
            raise NotScored(HTTPStatus.LENGTH_REQUIRED, "The request names no length of its body.")
        self.unread = int(given)
        return self.unread

    def _refuse_strangers(self) -> None:
        """Scripts of web pages cannot send JSON here, since no page's origin is allowed to."""
        if self.path != "/score":
            raise NotScored(HTTPStatus.NOT_FOUND, "There is nothing here; POST to /score.")
        given, wanted = self.headers.get("Authorization", ""), f"Bearer {self.server.key}"
        if self.server.key and not hmac.compare_digest(given.encode(), wanted.encode()):
            raise NotScored(HTTPStatus.UNAUTHORIZED, "The key is missing, or is another one.")
        if self.headers.get_content_type() != "application/json":
            raise NotScored(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send application/json.")

    def _json(self, length: int) -> Any:
        if length > MOST_BYTES:
            raise NotScored(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request is too long: at most {MOST_BYTES} bytes. Send it in parts.",
            )
        body = self.rfile.read(length)
        self.unread = 0
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise _malformed("The request", "a JSON object {model, conversations}") from None

    def _discard_rest(self) -> None:
        left = min(self.unread, MOST_DISCARDED)
        while left > 0 and (read := self.rfile.read(min(left, 2**16))):
            left -= len(read)

    def _answer(self, status: int, reply: dict[str, Any]) -> None:
        body = json.dumps(reply, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Also what the base class itself refuses: other methods, lines without end."""
        self._answer(code, {"error": f"{message or HTTPStatus(code).phrase}."})

    def version_string(self) -> str:
        return "tandem"

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(config: ServeConfig) -> str:
    """Answer until a Ctrl-C. Raises ValueError for an address that cannot be listened on."""
    key = os.environ.get(KEY_VARIABLE, "")
    with RewardServer(config, key) as server:
        host, port = server.server_address[:2]
        print(
            f"Reward models below {config.root} score at http://{host!s}:{port}/score", flush=True
        )
        if not key and not str(host).startswith("127."):
            print(f"Anybody who reaches {host!s} may ask: {KEY_VARIABLE} is not set.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return ""


main = command(ServeConfig, "reward.serve", serve)

if __name__ == "__main__":
    main()
