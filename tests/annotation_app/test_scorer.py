"""Scores over HTTP, and every way in which a reward server can fail."""

from __future__ import annotations

import json

import pytest

from annotation_app import sampler, scorer
from annotation_app.models.refusals import ScorerUnavailable
from tests.annotation_app.scoring import reward_server
from tests.annotation_app.talking import run
from tests.reward.chat_server import Answer, chat_server

CHATS = [
    [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": text}]
    for text in ("Yes.", "No, and here is why.")
]


def ask(settings, url: str, model: str = "runs/1/model") -> list[float]:
    settings.SCORER_URL = url

    async def scores() -> list[float]:
        async with scorer.connect() as client:
            return await scorer.scores(client, model, CHATS)

    return run(scores())


def said(settings, answer: Answer) -> str:
    with (
        chat_server(lambda request: answer) as server,
        pytest.raises(ScorerUnavailable) as refusal,
    ):
        ask(settings, server.address)
    return str(refusal.value)


def test_it_works(settings):
    settings.SCORER_API_KEY = "a key"
    with chat_server(lambda request: Answer(b'{"scores": [1.5, -2]}')) as server:
        assert ask(settings, server.address) == [1.5, -2.0]
    (heard,) = server.heard
    assert heard.path == "/score"
    assert heard.headers["Authorization"] == "Bearer a key"
    assert heard.request == {"model": "runs/1/model", "conversations": CHATS}


def test_the_real_server(settings, tmp_path):
    from tests.reward.reward_models import ours

    ours(tmp_path / "runs/1/model")
    settings.SCORER_API_KEY = "secret"
    with reward_server(tmp_path, "secret") as address:
        first, second = ask(settings, address)
        assert first != second
        with pytest.raises(ScorerUnavailable, match=r"There is no model 'runs/2/model' here\."):
            ask(settings, address, "runs/2/model")
        settings.SCORER_API_KEY = ""
        with pytest.raises(ScorerUnavailable, match="The key is missing, or is another one"):
            ask(settings, address)


def test_one_that_is_down(settings):
    with pytest.raises(ScorerUnavailable, match=r"cannot be reached at http://127\.0\.0\.1:9, so"):
        ask(settings, "http://127.0.0.1:9")


def test_an_address_that_is_none(settings):
    with pytest.raises(ScorerUnavailable, match=r"cannot be reached at http://127\.0\.0\.1:p, so"):
        ask(settings, "http://127.0.0.1:p")


def test_a_slow_one(settings):
    settings.SCORER_TIMEOUT_SECONDS = 0.2
    assert "did not answer within 0.2 seconds" in said(settings, Answer(b"{}", wait_seconds=5))


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"scores": 5}', b'{"scores": [1.0]}', b'{"scores": [1.0, null]}',
     b'{"scores": [1.0, NaN]}', b'{"scores": [1.0, "x"]}', b"\xff",
     b"[" * 200_000 + b"]" * 200_000, b'{"scores": [1.5, -2]}' + b" " * sampler.LONGEST_BODY],
    ids=lambda body: body[:20],
)  # fmt: skip
def test_a_wrong_reply(settings, body):
    assert said(settings, Answer(body)) == "The reward server's reply cannot be read."


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (json.dumps({"error": "It is full."}).encode(), "It is full."),
        (json.dumps({"error": "x" * 9_000}).encode(), "x" * 300),
        (json.dumps({"error": ["x"]}).encode(), "status 502."),
        (b"<html>Bad gateway</html>", "status 502."),
        (b"[]", "status 502."),
        (b"[" * 200_000, "status 502."),
    ],
)
def test_a_refusal_is_its_own_sentence(settings, body, reason):
    assert said(settings, Answer(body, 502)) == f"The reward server gave no score: {reason}"
