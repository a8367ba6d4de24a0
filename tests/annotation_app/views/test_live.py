"""The live process over HTTP: whose scripts it answers, and what a page that leaves ends."""

from __future__ import annotations

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from uuid import UUID, uuid4

import httpx
import pytest
from django.test import Client

from annotation_app.models import Annotation, Comparison, Person, Resampled, RunningTurn
from tests.annotation_app.rows import open_batch
from tests.annotation_app.talking import LiveProcess, in_pieces

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "http://127.0.0.1:8000"  # where the pages stand, by the settings' default
TOKEN = "t" * 32
BEGIN = "/live/helpfulness/begin"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
QUESTION = {"text": "How do I descale my kettle?"}


@pytest.fixture
def browser(process, client, bob, talker):
    """What Bob's page sends: his cookies, the token, and where it comes from."""
    open_batch(comparisons=0)
    with signed_in(process, client, bob) as browser:
        yield browser


def signed_in(process: LiveProcess, client, who: Person) -> httpx.Client:
    client.force_login(who)
    cookies = {"sessionid": client.cookies["sessionid"].value, "csrftoken": TOKEN}
    headers = {"Origin": PAGE, "X-CSRFToken": TOKEN, "Accept": "application/json"}
    return httpx.Client(
        base_url=f"http://127.0.0.1:{process.port}", cookies=cookies, headers=headers,
        trust_env=False, timeout=20,
    )  # fmt: skip


def events(answer: httpx.Response) -> list[dict]:
    return [json.loads(line) for line in answer.text.splitlines()]


def wait_for(ask, what: str) -> None:
    deadline = time.monotonic() + 10
    while not ask():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_it_works(browser, bob):
    answer = browser.post(BEGIN, data=QUESTION)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["X-Accel-Buffering"] == "no"
    *_, done = events(answer)
    annotation = Annotation.objects.get(pk=done["annotation"])
    assert annotation.annotator == bob
    annotation.record(choice="b", strength="better")
    dialogue = annotation.comparison.prompt.dialogue_id
    *_, done = events(browser.post(f"/live/dialogues/{dialogue}/go-on", data=QUESTION))
    assert Annotation.objects.get(pk=done["annotation"]).comparison.prompt.turn == 2


def test_text_comes_while_the_models_talk(browser, talker):
    talker.script = lambda body: in_pieces(f"{body['seed']} goes on and on and on " * 5, 0.02)
    arrived = []
    with browser.stream("POST", BEGIN, data=QUESTION) as answer:
        for line in answer.iter_lines():
            arrived.append((json.loads(line)["event"], time.monotonic()))
    texts = [at for event, at in arrived if event == "text"]
    assert texts[-1] - texts[0] > 0.3


# --- whose scripts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8000", "null",
     "http://127.0.0.1:8000.evil.example"],
)  # fmt: skip
def test_scripts_of_other_sites_are_refused(browser, talker, origin):
    for method, address in (("POST", BEGIN), ("OPTIONS", BEGIN)):
        answer = browser.request(method, address, data=QUESTION, headers={"Origin": origin})
        assert answer.status_code in (403, 405), method
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert not talker.requests


def test_own_addresses_are_answered(browser, settings):
    settings.SITE_URL = "https://tandem.example"
    settings.CSRF_TRUSTED_ORIGINS = ["https://other.example"]
    asked = {"Access-Control-Request-Method": "POST"}
    for origin in (PAGE, "https://tandem.example", "https://other.example"):
        answer = browser.options(BEGIN, headers={"Origin": origin, **asked})
        assert answer.status_code == 204
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert answer.headers["Access-Control-Allow-Headers"] == "Accept, X-CSRFToken"
        assert "Origin" in answer.headers["Vary"]


def test_another_host_name_is_refused(browser, talker):
    answer = browser.post(BEGIN, data=QUESTION, headers={"Host": "evil.example"})
    assert answer.status_code in (400, 403)
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert not talker.requests


@pytest.mark.parametrize("token", ["", "x" * 32])
@pytest.mark.parametrize("address", [BEGIN, f"/live/turns/{UUID(int=1)}/stop"])
def test_a_message_without_the_token_is_refused(browser, talker, token, address):
    answer = browser.post(address, data=QUESTION, headers={"X-CSRFToken": token})
    assert answer.status_code == 403
    assert not talker.requests


def test_nothing_else_is_served(browser):
    for address in ("/", "/annotate", "/sign-in", "/static/tandem/tandem.css", "/live/", "/live/x"):
        assert browser.get(address).status_code == 404, address


def test_a_body_without_end_is_not_read(browser, talker):
    for length in (2**19, 2**20, 2**23):
        answer = browser.post(BEGIN, content=b"text=" + b"x" * length, headers=FORM)
        assert (answer.status_code, answer.json()["errors"]) == (
            413,
            ["The message is too long: at most 20000 characters. Nothing was stored; it is kept "
             "here: shorten it."],
        )  # fmt: skip
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    evil = {**FORM, "Origin": "https://evil.example"}
    answer = browser.post(BEGIN, content=b"text=" + b"x" * 2**20, headers=evil)
    assert answer.status_code == 413
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert not talker.requests
    longest = {"text": "🫖" * 20_000}
    assert events(browser.post(BEGIN, data=longest))[-1]["event"] == "done"


def test_what_never_ends_is_cut_off(browser, process, talker):
    """Only so much is read on, even for an answer."""
    head = f"POST {BEGIN} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {2**40}\r\n\r\n"
    sent = 0
    with (
        socket.create_connection(("127.0.0.1", process.port), timeout=10) as peer,
        suppress(ConnectionResetError, BrokenPipeError),
    ):
        peer.sendall(head.encode())
        while sent < 2**26:
            peer.sendall(b"x" * 2**16)
            sent += 2**16
    assert 2**24 < sent < 2**26  # with what the kernel keeps on either side


@pytest.mark.parametrize("address", [BEGIN, "/live/dialogues/1/go-on"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"text": "Hello"}'),
        ("text/plain", b"text=Hello"),
        ("", b"text=Hello"),
        ("multipart/form-data; boundary=x", b"not a part"),
        ("multipart/form-data", b"--x--"),
        ("application/x-www-form-urlencoded", b"text=caf\xe9"),
        ("application/x-www-form-urlencoded", b"text=caf%E9"),
        ("application/x-www-form-urlencoded; charset=latin-1", b"text=caf%E9"),
        ("application/x-www-form-urlencoded; charset=nonsense", b"text=caf%E9"),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(1001))),
    ],
)
def test_what_is_no_form_is_a_sentence(browser, talker, address, kind, body):
    answer = browser.post(address, content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["errors"][0].startswith("The message cannot be read. Nothing was stored")
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert not talker.requests
    assert not RunningTurn.objects.exists()


def test_every_character_arrives(browser, talker):
    text = "café ☕ \u2028 100 % + 5 & a=b \ufffd"
    browser.post(BEGIN, data={"text": text})
    assert talker.requests[0]["messages"][-1]["content"] == text


def test_looking_changes_nothing(browser, talker):
    assert browser.get(BEGIN).status_code == 405
    assert not talker.requests


# --- which people ---------------------------------------------------------------------------------


def test_those_who_are_signed_out_are_told(browser, talker):
    browser.cookies.delete("sessionid")
    answer = browser.post(BEGIN, data=QUESTION)
    assert answer.status_code == 403
    assert answer.json() == {"errors": ["You are signed out. Sign in again in another tab."]}
    assert not talker.requests


def test_someone_elses_dialogue(browser, process, client, charlie, talker):
    *_, done = events(browser.post(BEGIN, data=QUESTION))
    annotation = Annotation.objects.get(pk=done["annotation"])
    annotation.record(choice="a", strength="better")
    address = f"/live/dialogues/{annotation.comparison.prompt.dialogue_id}/go-on"
    with signed_in(process, client, charlie) as theirs:
        answer = theirs.post(address, data=QUESTION)
        assert (answer.status_code, answer.json()["errors"]) == (
            403, ["This dialogue belongs to someone else."],
        )  # fmt: skip
        assert theirs.post("/live/dialogues/999999/go-on", data=QUESTION).status_code == 404
    assert len(talker.requests) == 2


def test_a_dialogue_without_a_chosen_answer(browser, talker):
    *_, done = events(browser.post(BEGIN, data=QUESTION))
    annotation = Annotation.objects.get(pk=done["annotation"])
    address = f"/live/dialogues/{annotation.comparison.prompt.dialogue_id}/go-on"
    answer = browser.post(address, data=QUESTION)
    assert "Judge the two answers" in answer.json()["errors"][0]
    annotation.skip()
    answer = browser.post(address, data=QUESTION)
    assert (answer.status_code, answer.json()["errors"]) == (
        409, ["No answer of this dialogue was chosen: begin a new one."],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"risk_category": ""}, "Write a message first."),
        ({"text": "   "}, "Write a message first."),
        ({"text": "x" * 20_001}, "at most 20000 characters"),
        ({"text": "a\x00b"}, "Null characters are not allowed."),
        ({"text": "Hello", "risk_category": "nonsense"}, "nonsense is not one of"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(browser, talker, fields, sentence):
    answer = browser.post(BEGIN, data=fields)
    assert answer.status_code == 400
    assert sentence in answer.json()["errors"][0]
    assert not talker.requests
    assert not RunningTurn.objects.exists()


def test_a_criterion_without_a_batch(browser):
    answer = browser.post("/live/safety/begin", data=QUESTION)
    assert answer.status_code == 409
    assert "No safety batch is open" in answer.json()["errors"][0]
    assert browser.post("/live/beauty/begin", data=QUESTION).status_code == 404


# --- stop, leave, twice ---------------------------------------------------------------------------


def test_stop(browser, talker):
    talker.script = lambda body: in_pieces(f"{body['seed']} goes on " * 5000, 0.01)
    found = []
    with browser.stream("POST", BEGIN, data=QUESTION) as answer:
        for line in answer.iter_lines():
            found.append(json.loads(line))
            if len(found) == 4:
                turn = found[0]["turn"]
                assert browser.post(f"/live/turns/{turn}/stop").status_code == 204
    assert found[-1]["event"] == "done"
    comparison = Comparison.objects.get()
    assert comparison.response_a.finish_reason == comparison.response_b.finish_reason == "stopped"
    assert browser.post(f"/live/turns/{found[0]['turn']}/stop").status_code == 404


def test_nobody_stops_someone_elses_turn(browser, process, client, charlie, talker):
    talker.script = lambda body: in_pieces(f"{body['seed']} goes on " * 5000, 0.01)
    with (
        browser.stream("POST", BEGIN, data=QUESTION) as answer,
        signed_in(process, client, charlie) as theirs,
    ):
        lines = answer.iter_lines()  # kept: without it the response is closed
        turn = json.loads(next(lines))["turn"]
        assert theirs.post(f"/live/turns/{turn}/stop").status_code == 404
        assert not RunningTurn.objects.get().is_stopped
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")


def test_a_second_tab_is_told(browser, talker):
    talker.script = lambda body: in_pieces(f"{body['seed']} goes on " * 5000, 0.01)
    with browser.stream("POST", BEGIN, data=QUESTION) as answer:
        lines = answer.iter_lines()
        next(lines)
        second = browser.post(BEGIN, data=QUESTION)
        assert second.status_code == 409
        assert "answering another message of yours" in second.json()["errors"][0]
        wait_for(lambda: len(talker.requests) == 2, "both requests")
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")
    assert len(talker.requests) == 2


@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_closed_tab_ends_both_requests_and_stores_nothing(browser, talker, lines):
    talker.script = lambda body: in_pieces(f"{body['seed']} goes on " * 5000, 0.01)
    with browser.stream("POST", BEGIN, data=QUESTION) as answer:
        found = answer.iter_lines()
        for _ in range(lines):
            next(found)
        wait_for(lambda: len(talker.requests) == 2, "both requests")
    wait_for(lambda: talker.left_alone == 2, "the end of both requests")
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")
    assert not Comparison.objects.exists()
    assert not Resampled.objects.exists()


def test_a_broken_connection_is_a_closed_tab(browser, process, talker):
    talker.script = lambda body: in_pieces(f"{body['seed']} goes on " * 5000, 0.01)
    request = browser.build_request("POST", BEGIN, data=QUESTION)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(("127.0.0.1", process.port)) as peer:
        peer.sendall(f"POST {BEGIN} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        wait_for(lambda: len(talker.requests) == 2, "both requests")
    wait_for(lambda: talker.left_alone == 2, "the end of both requests")
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")


@pytest.fixture
def connections():
    """How many the test database has now."""
    from django.db import connection

    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no list of connections")

    def count() -> int:
        with connection.cursor() as cursor:
            cursor.execute(  # autovacuum has one of its own
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend'"
            )
            return cursor.fetchone()[0]

    return count


def test_connections_do_not_pile_up(browser, connections):
    """Every turn and every other request gives its own back."""
    for _ in range(12):
        *_, done = events(browser.post(BEGIN, data=QUESTION))
        Annotation.objects.get(pk=done["annotation"]).skip()
        browser.post(f"/live/turns/{uuid4()}/stop")
    assert connections() <= 10  # the pool's few threads and the test itself


def test_many_at_once_wait_for_a_connection(browser, process, talker, connections):
    """PostgreSQL has a hundred for all of Tandem; only the first messages of a few ask at once."""
    from annotation_app.asgi import REQUESTS_AT_ONCE

    talker.script = lambda body: in_pieces(f"{body['seed']} goes on " * 5000, 0.02)
    most = 0
    with ExitStack() as stack, ThreadPoolExecutor(40) as pool:
        theirs = [
            stack.enter_context(signed_in(process, Client(), Person.objects.create_user(f"p{n}")))
            for n in range(40)
        ]

        def begin(one: httpx.Client) -> str:
            answer = stack.enter_context(one.stream("POST", BEGIN, data=QUESTION))
            return next(answer.iter_lines())

        begun = [pool.submit(begin, one) for one in theirs]
        while not all(future.done() for future in begun):
            most = max(most, connections())
        assert all('"start"' in future.result() for future in begun)
    pool, test = min(32, (os.cpu_count() or 1) + 4), 1
    leaving = REQUESTS_AT_ONCE  # closed here, and listed there for a moment more
    assert most <= REQUESTS_AT_ONCE + leaving + pool + test < len(theirs)
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turns")
