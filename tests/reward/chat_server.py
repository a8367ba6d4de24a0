"""A real HTTP server on the loopback that answers chat completions as a test tells it to."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

TRICKLE_SECONDS = 0.05  # before each byte


class Answer(NamedTuple):
    """What goes back: a status, a raw body, seconds before it, further headers; and which part of
    it comes byte by byte."""

    body: bytes
    status: int = 200
    wait_seconds: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    trickles: Literal["head", "body"] | None = None


class Heard(NamedTuple):
    path: str
    headers: dict[str, str]
    request: dict[str, Any]


class ChatServer(NamedTuple):
    address: str
    heard: list[Heard]


def says(text: object) -> Answer:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return Answer(json.dumps({"choices": [choice]}).encode())


class Listener(ThreadingHTTPServer):
    request_queue_size = 256  # so many may connect at once
    daemon_threads = True


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    """Serve until the block ends; ``answer`` is given each request's JSON."""
    heard: list[Heard] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            heard.append(Heard(self.path, dict(self.headers), request))
            given = answer(request)
            over.wait(given.wait_seconds)
            line, self.wfile = self.wfile, io.BytesIO()
            self.send_response(given.status)
            for name, value in given.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            head, self.wfile = self.wfile.getvalue(), line
            try:
                self._send(head, given.trickles == "head")
                self._send(given.body, given.trickles == "body")
            except OSError:
                pass  # who asked has hung up

        def _send(self, part: bytes, trickles: bool) -> None:
            for byte in part if trickles else ():
                over.wait(TRICKLE_SECONDS)
                self.wfile.write(bytes([byte]))
            if not trickles:
                self.wfile.write(part)

        do_GET = do_POST

        def log_message(self, *words: object) -> None:
            pass

    server = Listener(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield ChatServer(f"http://127.0.0.1:{server.server_port}", heard)
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
