"""Models that talk as a test tells them to, and the live process in this process."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import uvicorn
from django.urls import reverse

from annotation_app import live, storage
from annotation_app.models import Annotation, Batch, Comparison, Person, Response
from reward.preferences import Message
from tests.annotation_app.rows import comparison, released_chat_model

QUESTION = "How do I descale my kettle?"
NAMES = ("starter-a", "starter-b")


class End(NamedTuple):
    reason: str


Said = str | bytes | float | End  # text, raw bytes, a pause in seconds, the finish reason
Script = Callable[[dict[str, Any]], Iterator[Said]]


def in_pieces(text: str, seconds: float = 0.0, reason: str = "stop") -> Iterator[Said]:
    """A text in pieces of five characters, with a pause after each."""
    for start in range(0, len(text), 5):
        yield text[start : start + 5]
        if seconds:
            yield seconds
    yield End(reason)


class Talker:
    """A real OpenAI-compatible server on a free port. ``model`` is the end of the folder's name."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.left_alone = 0  # requests whose client went away
        self.status = 200
        self.script: Script = lambda body: in_pieces(f"Answer {body['seed']} and a little more.")
        talker = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body["model"] = body["model"].rpartition("/")[2]
                talker.requests.append({**body, "headers": dict(self.headers)})
                self.send_response(talker.status)
                self.end_headers()
                try:
                    for said in talker.script(body):
                        self._say(said)
                except OSError:
                    talker.left_alone += 1

            def _say(self, said: Said) -> None:
                if isinstance(said, float):
                    time.sleep(said)
                elif isinstance(said, bytes):
                    self.wfile.write(said)
                else:
                    text, reason = ("", said.reason) if isinstance(said, End) else (said, None)
                    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
                    event = json.dumps({"choices": [choice]}, ensure_ascii=False)
                    self.wfile.write(f"data: {event}\n\n".encode())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, **texts: str | Script) -> None:
        """What starter_a and starter_b say from now on."""

        def script(body: dict[str, Any]) -> Iterator[Said]:
            said = texts[body["model"].replace("-", "_")]
            return in_pieces(said) if isinstance(said, str) else said(body)

        self.script = script

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        gc.collect()  # the connections of the threads that ``run`` has ended


def release_both(*names: str) -> None:
    """Released chat models whose folders are there."""
    for name in names or NAMES:
        checkpoint = released_chat_model(name).checkpoint
        storage.path(checkpoint.storage_key).mkdir(parents=True)


def turn(who: Person, batch: Batch, choice: str = "", text: str = QUESTION) -> Annotation:
    """A turn as the live process stores it; judged where a choice is given."""
    prompt = comparison(batch, text).prompt
    prompt.dialogue.annotator = who
    prompt.dialogue.save()
    annotation = Annotation.objects.lease(Comparison.objects.get(prompt=prompt), who)
    if choice:
        annotation.record(choice=choice, strength="better")
    return annotation


def page_of(annotation: Annotation) -> str:
    return reverse("dialogue", args=[annotation.comparison.prompt.dialogue_id])


def next_turn(before: Annotation) -> Annotation:
    chosen = before.comparison.response(before.choice)
    prompt = before.comparison.prompt.go_on(chosen, Message("user", "And then?"))
    responses = [Response.objects.create(prompt=prompt, text=text) for text in ("Wait.", "Rinse.")]
    posed = Comparison.pose(before.comparison.batch, prompt, *responses)
    before.comparison.go_on_with(before.choice)
    annotation = Annotation.objects.lease(posed, before.annotator)
    annotation.record(choice="b", strength="slightly_better")
    return annotation


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """In a thread of its own: Playwright keeps a loop in that of the tests."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def converse(
    who: Person, batch: Batch, text: str, before: live.Standing | None = None, **risk: str
) -> list[dict[str, Any]]:
    """Every event of one turn."""

    async def listen() -> list[dict[str, Any]]:
        return [event async for event in live.events(turn)]

    turn = live.begin_turn(who, batch, before, text, **risk)
    return run(listen())


class LiveProcess:
    """uvicorn with the live addresses, in a thread: it sees the settings and rows of a test."""

    def __init__(self) -> None:
        from annotation_app.asgi import LiveHandler

        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            LiveHandler(), lifespan="off", proxy_headers=False, log_level="warning",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()
        gc.collect()
