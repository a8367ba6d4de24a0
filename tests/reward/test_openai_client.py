"""The client of OpenAI-compatible servers, against real HTTP: what it sends, and what may come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import pytest

from reward import openai_client
from reward.openai_client import (
    CHAT,
    LONGEST_BODY,
    Declined,
    Server,
    Unanswered,
    base_url,
    message_text,
)
from tests.reward.chat_server import Answer, ChatServer, chat_server, says

REQUEST = {"messages": [{"role": "user", "content": "Why?"}], "n": 1}
SETTINGS = {"timeout_seconds": 5.0, "attempts": 3, "parallel_requests": 4}


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The seconds before each attempt, which nobody waits for here."""
    found: list[float] = []
    monkeypatch.setattr(openai_client.time, "sleep", found.append)
    return found


@contextmanager
def serving(answer, **changed: Any) -> Iterator[tuple[Server, ChatServer]]:
    """A server that answers so, and the client of it."""
    settings = {**SETTINGS, **changed}
    with (
        chat_server(answer) as there,
        Server(there.address, "TEST_API_KEY", **settings) as server,
    ):
        yield server, there


def ask(answer, **changed: Any) -> str | None:
    with serving(answer, **changed) as (server, _):
        return server.ask(CHAT, REQUEST, message_text)


def test_it_works(monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", "secret")
    with serving(lambda request: says("Yes.")) as (server, there):
        assert server.ask(CHAT, REQUEST, message_text) == "Yes."
        assert server.ask(CHAT, REQUEST, message_text) == "Yes."
    heard, again = there.heard
    assert heard == again
    assert (heard.path, heard.request) == (CHAT, REQUEST)
    assert heard.headers["Authorization"] == "Bearer secret"
    assert heard.headers["Content-Type"] == "application/json"


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    with serving(lambda request: says("Yes.")) as (server, there):
        server.ask(CHAT, REQUEST, message_text)
    assert "Authorization" not in there.heard[0].headers


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_holds_is_refused_unseen(monkeypatch, key):
    monkeypatch.setenv("TEST_API_KEY", key)
    with pytest.raises(ValueError, match="TEST_API_KEY is no key") as refused:
        Server("http://host", "TEST_API_KEY", **SETTINGS)
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("ftp://host", "allowed is http"),
        ("host:80", "allowed is http"),
        ("http://", "allowed is http"),
        ("http://[::1", "allowed is http"),
        ("http://host:99999", "allowed is http"),
        ("http://host\n", "allowed is http"),
        ("https://me:key@host", "must hold no key: put it into THE_KEY"),
        ("https://host/v1?key=x", "must hold no key"),
        ("https://host/#key", "must hold no key"),
    ],
)
def test_addresses(address, sentence):
    with pytest.raises(ValueError, match=sentence):
        base_url(address, "THE_KEY")


@pytest.mark.parametrize("address", ["https://h/a", "https://h/a/", "https://h/a/v1/"])
def test_an_address_may_name_the_version(address):
    assert base_url(address, "THE_KEY") == "https://h/a"


def test_a_proxy_of_the_environment_is_not_used(monkeypatch):
    with chat_server(lambda request: says("I have read it all.")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert ask(lambda request: says("Yes.")) == "Yes."
        assert proxy.heard == []


def test_a_redirect_is_not_followed():
    with chat_server(lambda request: says("Stolen.")) as elsewhere:
        moved = Answer(b"", 307, headers=(("Location", elsewhere.address + CHAT),))
        with serving(lambda request: moved) as (server, there):
            with pytest.raises(Declined, match=f"307 sends to '{elsewhere.address}/v1"):
                server.ask(CHAT, REQUEST, message_text)
            assert len(there.heard) == 1
        assert elsewhere.heard == []


def test_so_many_are_asked_at_once_as_was_said():
    """More than the hundred connections that httpx has of its own accord."""
    count = 120
    together = threading.Barrier(count, timeout=30)

    def answer(request):
        together.wait()
        return says("Yes.")

    with (
        serving(answer, parallel_requests=count, timeout_seconds=60.0) as (server, _),
        ThreadPoolExecutor(count) as pool,
    ):
        found = pool.map(lambda n: server.ask(CHAT, REQUEST, message_text), range(count))
        assert list(found) == ["Yes."] * count


def test_half_of_a_pair_in_a_question_is_sent():
    """The server decides what to make of it; no UTF-8 can hold it."""
    with serving(lambda request: says("Yes.")) as (server, there):
        server.ask(CHAT, {"prompt": "a\ud800b"}, message_text)
    assert there.heard[0].request == {"prompt": "a\ud800b"}


# --- no answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_is_refused_for_now_is_asked_again(status):
    answers = iter([Answer(b"busy", status), says("Yes.")])
    assert ask(lambda request: next(answers)) == "Yes."


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 451])
def test_what_is_refused_is_not_asked_again(status):
    refusal = Answer(b'{"error":\n "not like  this"}\x1b', status)
    words = rf'^{status} {{"error": "not like this"}}$'
    with serving(lambda request: refusal) as (server, there):
        with pytest.raises(Declined, match=words) as declined:
            server.ask(CHAT, REQUEST, message_text)
        assert declined.value.status == status
        assert len(there.heard) == 1


UNREADABLE = {
    "no JSON": (Answer(b"Yes."), "200 without a choice: Yes."),
    "nothing": (Answer(b""), "200 without a choice:"),
    "other JSON": (Answer(b'{"choices": {"0": []}}'), "200 without a choice"),
    "a list": (Answer(b"[[[]]]"), "200 without a choice"),
    "no choices": (Answer(b'{"choices": []}'), "200 without a choice"),
    "a choice that is text": (Answer(b'{"choices": ["Yes."]}'), "200 without a choice"),
    "half a letter": (Answer(b'{"choices": [{"message": {"content": "\xc3'), "without a choice"),
    "deep": (Answer(b"[" * 200_000 + b"]" * 200_000), "200 without a choice"),
    "without a message": (Answer(b'{"choices": [{}]}'), "200 without a message: {"),
    "an error": (Answer(b"<html>oops</html>", 500), "^500 <html>oops</html>$"),
    "endless": (Answer(b" " * (LONGEST_BODY + 1)), "more than 20000000 bytes"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_asked_again_and_then_said(kind):
    answer, words = UNREADABLE[kind]
    with serving(lambda request: answer) as (server, there):
        with pytest.raises(Unanswered, match=words):
            server.ask(CHAT, REQUEST, message_text)
        assert len(there.heard) == 3


@pytest.mark.parametrize("host", ["127.0.0.1:9", "a" * 64 + ".invalid"])
def test_nobody_there(host):
    """No name has a part of 64 letters: nobody is asked where it is."""
    with (
        Server(f"http://{host}", "TEST_API_KEY", **SETTINGS) as server,
        pytest.raises(Unanswered, match="Error"),
    ):
        server.ask(CHAT, REQUEST, message_text)


@pytest.mark.parametrize("part", ["head", "body"])
def test_time_is_up_however_the_answer_trickles_in(part):
    """Each byte comes long before the time of one read is over."""
    answer = says("Yes, and here is why.")._replace(trickles=part)
    with pytest.raises(Unanswered, match=r"not whole after 0\.3 s"):
        ask(lambda request: answer, timeout_seconds=0.3, attempts=1)


def test_what_comes_too_late_is_not_waited_for():
    answers = chain([says("Late.")._replace(wait_seconds=30)], repeat(says("Yes.")))
    assert ask(lambda request: next(answers), timeout_seconds=0.5) == "Yes."


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (None, [0, 1, 2, 4]),
        ("20", [0, 20, 20, 20]),
        ("1", [0, 1, 2, 4]),
        ("99999", [0, 60, 60, 60]),
        ("soon", [0, 1, 2, 4]),
    ],
)
def test_pauses_double_or_are_as_long_as_the_server_says(pauses, after, found):
    """None follows the last attempt."""
    busy = Answer(b"", 429, headers=(("Retry-After", after),) if after else ())
    with pytest.raises(Unanswered):
        ask(lambda request: busy, attempts=4)
    assert pauses == found


# --- what a message says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Yes.", "Yes."),
        ("", ""),
        (None, None),
        ([], ""),
        ([{"type": "text", "text": "Yes"}, {"type": "text", "text": "."}], "Yes."),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83e\uded6", "\ufffd\ufffd"),  # in JSON the two make one letter
    ],
)
def test_texts_of_messages(content, text):
    assert message_text({"message": {"content": content}}) == text


def test_a_letter_of_two_halves_is_read():
    assert ask(lambda request: says("🫖 and no more")) == "🫖 and no more"


@pytest.mark.parametrize(
    "message",
    [
        None, "Yes.", {"content": 5}, {"content": {"text": "Yes."}}, {"content": ["Yes."]},
        {"content": [{"type": "image_url", "text": "Yes."}]},
        {"content": [{"type": "text", "text": None}]},
    ],
)  # fmt: skip
def test_messages_that_are_no_text(message):
    body = json.dumps({"choices": [{"message": message}]}).encode()
    with pytest.raises(Unanswered, match=r"200 (without a message|with a message that is not all)"):
        ask(lambda request: Answer(body))
