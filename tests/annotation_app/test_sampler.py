"""One answer over HTTP, piece by piece, and every way in which a sampler can fail."""

from __future__ import annotations

import json

import pytest

from annotation_app import sampler
from annotation_app.models.refusals import SamplerUnavailable
from annotation_app.sampler import Question
from tests.annotation_app.talking import End, in_pieces, run
from tests.reward.chat_server import chat_server, says

MESSAGES = [{"role": "user", "content": "How do I descale my kettle?"}]


def ask(url: str) -> tuple[list[str], str]:
    """The pieces that were heard, and why it ended."""
    heard: list[str] = []
    asked = Question(f"{url}/v1/chat/completions", "starter-a", 0.8, 0.9)

    async def answer() -> str:
        async with sampler.connect() as client:
            return await sampler.answer(client, asked, MESSAGES, 7, heard.append)

    return heard, run(answer())


def test_it_works(talker, settings):
    settings.SAMPLER_API_KEY = "a key"
    settings.SAMPLER_MAX_TOKENS = 33
    talker.script = lambda body: in_pieces("With vinegar.")
    heard, reason = ask(talker.url)
    assert [piece for piece in heard if piece] == ["With ", "vineg", "ar."]
    assert reason == "stop"
    (body,) = talker.requests
    assert body["headers"]["Authorization"] == "Bearer a key"
    wanted = {"messages": MESSAGES, "temperature": 0.8, "top_p": 0.9, "seed": 7, "stream": True}
    assert {**wanted, "max_tokens": 33}.items() <= body.items()


def test_what_other_servers_send_besides(talker):
    """Comments, a role without text, no space after the colon, CRLF, usage, [DONE]."""
    talker.script = lambda body: iter(
        [
            b": ping\r\n\r\nevent: message\r\n",
            b'data:{"choices": [{"delta": {"role": "assistant", "content": null}}]}\r\n\r\n',
            "Yes.",
            b'data: {"choices": [], "usage": {}}\n\n',
            End("length"),
            b"data: [DONE]\n\n",
        ]
    )
    heard, reason = ask(talker.url)
    assert ("".join(heard), reason) == ("Yes.", "length")


def test_a_line_separator_in_a_text_is_text(talker):
    talker.script = lambda body: in_pieces("a\u2028b\x85c\x0bd 🫖")
    assert "".join(ask(talker.url)[0]) == "a\u2028b\x85c\x0bd 🫖"


def test_a_sampler_that_is_down():
    with pytest.raises(SamplerUnavailable, match="cannot be reached"):
        ask("http://127.0.0.1:9")


def test_an_address_that_is_none():
    with pytest.raises(SamplerUnavailable, match="cannot be reached"):
        ask("http://127.0.0.1:port")


@pytest.mark.parametrize("pause", [1, 0.06])
def test_a_slow_sampler_before_and_within_its_answer(talker, settings, pause):
    settings.SAMPLER_TIMEOUT_SECONDS = 0.3
    talker.script = lambda body: iter(["Yes ", float(pause)] * 20)
    with pytest.raises(SamplerUnavailable, match="did not answer within"):
        ask(talker.url)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"not a stream",
        b"data: not JSON\n\n",
        b"data: {}\n\n",
        b"data: []\n\n",
        b'data: {"choices": []}\n\n',
        b'data: {"choices": [{"delta": "Yes"}]}\n\n',
        b'data: {"choices": [{"delta": {"content": 5}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "Yes"}}]}\n\n',  # and no more
        json.dumps({"choices": [{"message": {"content": "Yes"}}]}).encode(),
        b'data: {"choices": [{"delta": {"content": "\\u0000"}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "\\ud83e"}}]}\n\n',
        b"data: " + b"[" * 200_000 + b"]" * 200_000 + b"\n\n",
    ],
)
def test_a_wrong_reply(talker, sent):
    talker.script = lambda body: iter([sent])
    with pytest.raises(SamplerUnavailable, match="cannot be read"):
        ask(talker.url)


@pytest.mark.parametrize(
    ("block", "count", "why"),
    [
        (b" " * 1_000_000, 3, "a line of more than 1000000 bytes"),
        (b":" + b" " * 990_000 + b"\n", 51, "more than 50000000 bytes"),
    ],
)
def test_an_endless_reply(talker, block, count, why):
    """It is left before its end, which would be a good one."""
    talker.script = lambda body: iter([*[block] * count, *in_pieces("Yes.")])
    with pytest.raises(SamplerUnavailable, match="cannot be read") as refusal:
        ask(talker.url)
    assert refusal.value.why.endswith(f": {why}.")


def test_a_proxy_of_the_environment_is_not_used(talker, monkeypatch):
    with chat_server(lambda request: says("I have read it all.")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert ask(talker.url)[1] == "stop"
        assert proxy.heard == []


def test_an_error_status(talker):
    talker.status = 500
    with pytest.raises(SamplerUnavailable, match="cannot be read"):
        ask(talker.url)
