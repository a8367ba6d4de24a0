"""A written prompt: two answers over HTTP, and every way in which a sampler can fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from annotation_app import live, storage
from annotation_app.models import (
    Annotation,
    Comparison,
    Dialogue,
    Person,
    Prompt,
    Resampled,
    Response,
)
from annotation_app.models.refusals import BatchClosed, NothingReleased, SamplerUnavailable
from tests.annotation_app.rows import open_batch, released_chat_model

pytestmark = pytest.mark.django_db

QUESTION = "How do I descale my kettle?"


class Sampler:
    """A real HTTP server on a free port that answers as it is told to."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.reply: Callable[[dict], tuple[int, str]] = self.good
        sampler = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sampler.requests.append(body)
                status, text = sampler.reply(body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def answer(text: str, finish_reason: str = "stop") -> tuple[int, str]:
        message = {"role": "assistant", "content": text}
        choice = {"message": message, "finish_reason": finish_reason}
        return 200, json.dumps({"choices": [choice]})

    def good(self, body: dict) -> tuple[int, str]:
        return self.answer(f"Answer {body['seed']}")


@pytest.fixture
def sampler(settings, tmp_path) -> Iterator[Sampler]:
    sampler = Sampler()
    settings.SAMPLER_URL = sampler.url
    settings.STORAGE_ROOT = tmp_path
    yield sampler
    sampler.server.shutdown()
    sampler.server.server_close()


@pytest.fixture
def bob(sampler) -> Person:
    for name in ("starter-a", "starter-b"):
        release = released_chat_model(name)
        storage.path(release.checkpoint.storage_key).mkdir(parents=True)
    return Person.objects.create_user("bob")


def nothing_stored() -> bool:
    tables = (Dialogue, Prompt, Response, Comparison, Annotation)
    return not any(table.objects.exists() for table in tables)


def test_it_works(bob, sampler):
    batch = open_batch(comparisons=0)
    annotation = live.pose_written_prompt(bob, batch, QUESTION)
    assert (annotation.state, annotation.annotator) == ("leased", bob)
    comparison = annotation.comparison
    assert comparison.prompt.user_message == QUESTION
    responses = [comparison.response_a, comparison.response_b]
    assert {r.checkpoint.name for r in responses} == {"starter-a", "starter-b"}
    assert {r.temperature for r in responses} == {0.8, 1.0}
    asked = {body["seed"]: body for body in sampler.requests}
    for response in responses:
        assert response.text == f"Answer {response.seed}"
        assert asked[response.seed]["temperature"] == response.temperature
        assert asked[response.seed]["top_p"] == response.top_p
        assert asked[response.seed]["model"].endswith(response.checkpoint.storage_key)


def test_without_a_released_model_the_annotator_is_told(sampler):
    bob = Person.objects.create_user("bob")
    with pytest.raises(NothingReleased, match="No chat model is released"):
        live.pose_written_prompt(bob, open_batch(comparisons=0), QUESTION)


def test_a_closed_batch_takes_no_prompts(bob):
    batch = open_batch(comparisons=0)
    batch.close()
    with pytest.raises(BatchClosed, match="takes no new prompts"):
        live.pose_written_prompt(bob, batch, QUESTION)
    assert nothing_stored()


def test_a_sampler_that_is_down_stores_nothing(bob, sampler, settings):
    settings.SAMPLER_URL = "http://127.0.0.1:9"
    with pytest.raises(SamplerUnavailable, match="cannot be reached"):
        live.pose_written_prompt(bob, open_batch(comparisons=0), QUESTION)
    assert nothing_stored()


def test_a_slow_sampler_stores_nothing(bob, sampler, settings):
    settings.SAMPLER_TIMEOUT_SECONDS = 0.2

    def slow(body: dict) -> tuple[int, str]:
        time.sleep(1)
        return sampler.good(body)

    sampler.reply = slow
    with pytest.raises(SamplerUnavailable, match="did not answer within"):
        live.pose_written_prompt(bob, open_batch(comparisons=0), QUESTION)
    assert nothing_stored()


@pytest.mark.parametrize(
    "reply",
    [
        (500, "Internal Server Error"),
        (200, "not JSON"),
        (200, "{}"),
        (200, '{"choices": []}'),
        (200, '{"choices": [{"message": {"content": null}}]}'),
        (200, "[]"),
    ],
)
def test_a_wrong_reply_stores_nothing(bob, sampler, reply):
    sampler.reply = lambda body: reply
    with pytest.raises(SamplerUnavailable, match="cannot be read"):
        live.pose_written_prompt(bob, open_batch(comparisons=0), QUESTION)
    assert nothing_stored()


@pytest.mark.parametrize(
    ("text", "finish_reason", "words", "requests"),
    [
        ("", "stop", "an empty answer", 6),
        ("  ", "stop", "an empty answer", 6),
        ("Yes.", "stop", "identical answers", 4),  # the first one is kept
        ("I am not done", "length", "an answer that is cut off", 6),
        ("I am Starter-A, and Starter-B too.", "stop", "an answer that names the model", 6),
    ],
)
def test_answers_nobody_could_judge_are_asked_for_again(
    bob, sampler, text, finish_reason, words, requests
):
    sampler.reply = lambda body: sampler.answer(text, finish_reason)
    with pytest.raises(SamplerUnavailable, match=words):
        live.pose_written_prompt(bob, open_batch(comparisons=0), QUESTION)
    assert len(sampler.requests) == requests
    assert nothing_stored()
    kept = Resampled.objects.all()
    assert {(r.reason, r.text, r.annotator) for r in kept} == {(words, text, bob)}
    assert len(kept) == (3 if words == "identical answers" else 6)
    assert kept[0].messages == [{"role": "user", "content": QUESTION}]


def test_the_second_try_is_served(bob, sampler):
    texts = ["Two.", "One.", ""]
    sampler.reply = lambda body: sampler.answer(texts.pop())
    found = live.pose_written_prompt(bob, open_batch(comparisons=0), QUESTION).comparison
    assert {found.response_a.text, found.response_b.text} == {"One.", "Two."}
    assert [r.reason for r in Resampled.objects.all()] == ["an empty answer"]


def test_a_safety_prompt_carries_its_risk_and_its_attack(bob, sampler):
    found = live.pose_written_prompt(
        bob, open_batch("safety", comparisons=0), QUESTION,
        risk_category="hateful_and_harmful", attack_vector="semantic",
    )  # fmt: skip
    prompt = found.comparison.prompt
    assert (prompt.risk_category, prompt.attack_vector) == ("hateful_and_harmful", "semantic")


def test_missing_weights_are_reported_before_the_sampler_is_asked(sampler):
    released_chat_model()
    bob = Person.objects.create_user("bob")
    with pytest.raises(SamplerUnavailable, match="missing from the storage"):
        live.pose_written_prompt(bob, open_batch(comparisons=0), QUESTION)
    assert not sampler.requests
