"""Answers by way of an address: what is asked of it, and what is said when it cannot.

vLLM is no part of the tests: the server that answers token ids plays its protocol (drawing_server).
"""

from __future__ import annotations

import json
import re

import pytest

from rlhf_loop.engines import Here, answer_prompts
from rlhf_loop.policy import Drawing, answer_text, prompt_tokens, stop_tokens
from rlhf_loop.serving import Address, SamplerRefused
from tests.reward.chat_server import Answer, chat_server, says
from tests.rlhf_loop.conftest import make_prompt
from tests.rlhf_loop.drawing_server import address_with, as_vllm, only_messages

PROMPTS = [make_prompt(i).messages for i in range(5)]
SEEDS = list(range(5))

pytestmark = pytest.mark.usefixtures("nobody_asked")


def test_it_works(loaded, capsys):
    """By token ids the answers are those that this process draws."""
    drawing, heard = Drawing(12), []
    with chat_server(as_vllm(loaded)) as server:
        address = address_with(server, loaded)
        found = answer_prompts(address, PROMPTS, SEEDS, drawing, heard.append)
    here = answer_prompts(Here(*loaded, 8), PROMPTS, SEEDS, drawing)
    assert [answer[:2] for answer in found] == [answer[:2] for answer in here]
    assert found[0].logprobs == pytest.approx(here[0].logprobs, abs=1e-4)
    assert heard[-1] == len(PROMPTS)
    assert capsys.readouterr().out == ""
    assert {h.path for h in server.heard} == {"/v1/completions"}
    first = prompt_tokens(loaded[1], PROMPTS[0])  # several are asked at once, in any order
    own = {"prompt": first, "seed": SEEDS[0], "max_tokens": 12}
    asked = [h.request for h in server.heard if own.items() <= h.request.items()][-1]
    assert asked["stop_token_ids"] == sorted(stop_tokens(*loaded))
    assert (asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (0, 0.0, 1.0)
    assert asked["model"] == "policy"


@pytest.mark.parametrize("drawing", [Drawing(8, 0.7), Drawing(8, 1.0, 0.9)])
def test_log_probabilities_that_may_be_of_another_kind_are_not_taken(loaded, drawing):
    with chat_server(as_vllm(loaded)) as server:
        found = answer_prompts(address_with(server, loaded), PROMPTS, SEEDS, drawing)
    assert {answer.logprobs for answer in found} == {None}


def test_an_address_without_log_probabilities_is_said_to_give_none(loaded, capsys):
    with chat_server(as_vllm(loaded, logprobs=None)) as server:
        found = answer_prompts(address_with(server, loaded), PROMPTS, SEEDS, Drawing(8))
    assert {answer.logprobs for answer in found} == {None}
    assert capsys.readouterr().out == f"{server.address} gives no log-probabilities.\n"


@pytest.mark.parametrize("refusal", ["refuses", "gives no ids"])
def test_an_address_without_token_ids_is_asked_by_messages(loaded, refusal, capsys):
    def answer(request):
        if "messages" in request:
            return says(f" {request['messages'][-1]['content']} {request['seed']} ")
        if refusal == "refuses":
            return Answer(b'{"detail": "prompt must be a string."}', 400)
        return as_vllm(loaded, token_ids=None)(request)

    with chat_server(answer) as server:
        address = address_with(server, loaded)
        found = answer_prompts(address, PROMPTS, SEEDS, Drawing(8))
        answer_prompts(address, PROMPTS, SEEDS, Drawing(8))
    said = capsys.readouterr().out
    assert said.count("is asked by chat messages and answers with text") == 1
    for prompt, seed, answered in zip(PROMPTS, SEEDS, found, strict=True):
        text = f"{prompt[-1].content} {seed}"
        assert answer_text(loaded[1], answered) == text
        assert loaded[1].decode(answered.tokens, skip_special_tokens=True).strip() == text
        assert answered.finished
        assert answered.logprobs is None


def test_an_end_token_that_a_text_spells_ends_no_answer(loaded):
    tokenizer = loaded[1]
    with chat_server(only_messages(lambda request: says("Yes.<|end|>No."))) as server:
        (found,) = answer_prompts(address_with(server, loaded), PROMPTS[:1], SEEDS[:1], Drawing(8))
    assert answer_text(tokenizer, found) == "Yes.<|end|>No."
    assert [i for i in found.tokens if i == tokenizer.eos_token_id] == found.tokens[-1:]
    assert tokenizer.decode(found.tokens[:-1]) == "Yes.<|end|>No."


def test_an_address_that_has_to_answer_by_token_ids_is_refused_where_it_cannot(loaded):
    with chat_server(as_vllm(loaded, token_ids=None)) as server:
        address = address_with(server, loaded)._replace(needs_tokens=True)
        with pytest.raises(
            SamplerRefused, match=r"does not answer by token ids, .* the very tokens"
        ):
            answer_prompts(address, PROMPTS, SEEDS, Drawing(8))
        assert {heard.path for heard in server.heard} == {"/v1/completions"}


def test_an_address_that_does_not_keep_seeds_is_noticed(loaded, capsys):
    texts = iter("abcdefghijklmnop")
    with chat_server(only_messages(lambda request: says(next(texts)))) as server:
        address = address_with(server, loaded)._replace(parallel_requests=1)
        found = answer_prompts(address, PROMPTS, SEEDS, Drawing(8))
        asked = [heard for heard in server.heard if "messages" in heard.request]
    assert len(asked) == 1 + len(PROMPTS) + 1  # whether it answers, what, and whether again
    assert [answer.text for answer in found] == list("bcdef")
    assert "does not keep seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"finish_reason": "stop", "token_ids": [30]}, r"ended an answer with the tokens \[30\]"),
        ({"prompt_token_ids": [1, 2, 3]}, "changed the tokens of a prompt"),
        ({"token_ids": [-5, 1]}, r"does not have, allowed are 0 to \d+$"),
        ({"token_ids": [99999, 1]}, r"does not have, allowed are 0 to \d+$"),
        ({"token_ids": [10**30, 1]}, r"does not have, allowed are 0 to \d+$"),
        ({"token_ids": [True, 1]}, r"does not have, allowed are 0 to \d+$"),
        ({"token_ids": [[5], 1]}, r"does not have, allowed are 0 to \d+$"),
        ({"token_ids": []}, "answered with 0 tokens, allowed are 1 to 1$"),
        ({"token_ids": [30] * 9}, "answered with 9 tokens, allowed are 1 to 1$"),
        ({"logprobs": {"token_logprobs": [None]}}, "not one number for each of 1 tokens"),
        ({"logprobs": {"token_logprobs": [-0.5] * 9}}, "not one number for each of 1 tokens"),
        ({"logprobs": {"token_logprobs": [float("nan")]}}, "not one number for each of 1"),
        ({"logprobs": {"token_logprobs": [10**400]}}, "not one number for each of 1 tokens"),
        ({"logprobs": {"token_logprobs": 5}}, "not one number for each of 1 tokens"),
        ({"logprobs": [1]}, "not one number for each of 1 tokens"),
    ],
)
def test_answers_that_are_not_what_was_asked_for_are_refused(loaded, changed, sentence):
    with (
        chat_server(as_vllm(loaded, **changed)) as server,
        pytest.raises(SamplerRefused, match=sentence) as refused,
    ):
        answer_prompts(address_with(server, loaded), PROMPTS, SEEDS, Drawing(8))
    assert f"the prompt that ends with {PROMPTS[0][-1].content!r}: " in str(refused.value)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "abort", "", None, ["stop"]])
@pytest.mark.parametrize("by_tokens", [True, False])
def test_an_answer_with_another_end_is_none(loaded, by_tokens, reason):
    """Neither whole nor cut at the limit, it would be selected, or learnt from, as what it is not;
    the prompt that it is about is named, and why."""
    shown = repr(reason) if isinstance(reason, str) else "no text"
    own = prompt_tokens(loaded[1], PROMPTS[3])

    def answer(request):
        if by_tokens:
            changed = {"finish_reason": reason} if request["prompt"] == own else {}
            return as_vllm(loaded, **changed)(request)
        if "messages" not in request:
            return Answer(b"no prompts", 400)
        is_asked = request["messages"][-1]["content"] == PROMPTS[3][-1].content
        choice = {"message": {"content": "Half"}, "finish_reason": reason if is_asked else "stop"}
        return Answer(json.dumps({"choices": [choice]}).encode())

    named = re.escape(f"the prompt that ends with {PROMPTS[3][-1].content!r}: ")
    sentence = rf"{named}.* finish_reason {shown}, allowed are 'stop' and 'length'$"
    with chat_server(answer) as server:
        address = address_with(server, loaded)
        with pytest.raises(SamplerRefused, match=sentence):
            answer_prompts(address, PROMPTS, SEEDS, Drawing(8))


def test_an_answer_that_was_cut_counts_as_cut(loaded):
    choice = {"message": {"content": "Half a"}, "finish_reason": "length"}
    body = json.dumps({"choices": [choice]}).encode()
    with chat_server(lambda request: Answer(body)) as server:
        address = address_with(server, loaded)
        [found] = answer_prompts(address, PROMPTS[:1], [0], Drawing(8))
    assert (found.text, found.finished) == ("Half a", False)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Yes"}, {"type": "text", "text": ", it is."}], "Yes, it is."),
        ("a\ud800b", "a\ufffdb"),
        (None, ""),
    ],
)
def test_odd_texts_are_read(loaded, content, text):
    with chat_server(only_messages(lambda request: says(content))) as server:
        found = answer_prompts(address_with(server, loaded), PROMPTS[:1], [0], Drawing(8))
    assert found[0].text == text
    assert answer_text(loaded[1], found[0]) == text


UNUSABLE = {
    "an image": (
        says([{"type": "image_url", "image_url": "x"}]), "with a message that is not all text"
    ),
    "no message": (
        Answer(b'{"choices": [{"finish_reason": "stop"}]}'), "answered without a message"
    ),
    "a choice that is text": (Answer(b'{"choices": ["Yes."]}'), "did not answer: 200 without a ch"),
    "deep": (Answer(b"[" * 200_000 + b"]" * 200_000), "did not answer: 200 without a choice"),
    "elsewhere": (
        Answer(b"", 307, headers=(("Location", "http://x"),)), "307 sends to 'http://x', which is"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_answer_is_refused_in_words(loaded, kind):
    said, sentence = UNUSABLE[kind]
    with (
        chat_server(only_messages(lambda request: said)) as server,
        pytest.raises(SamplerRefused, match=sentence),
    ):
        answer_prompts(address_with(server, loaded), PROMPTS, SEEDS, Drawing(8))


def test_who_refuses_how_answers_are_drawn_is_not_said_to_give_no_tokens(loaded, capsys):
    """An address that can token ids, and one that cannot: both say what is wrong."""
    for is_vllm in (True, False):

        def answer(request, is_vllm=is_vllm):
            if request["temperature"] > 2:
                return Answer(b"temperature must be at most 2", 400)
            return (
                as_vllm(loaded)(request)
                if is_vllm
                else only_messages(lambda _: says("Yes."))(request)
            )

        with chat_server(answer) as server:
            address = address_with(server, loaded)
            with pytest.raises(SamplerRefused, match="refuses: 400 temperature must be") as refused:
                answer_prompts(address, PROMPTS, SEEDS, Drawing(8, temperature=3.0))
            assert f"the prompt that ends with {PROMPTS[0][-1].content!r}: " in str(refused.value)
            assert capsys.readouterr().out == ""
            answer_prompts(address, PROMPTS, SEEDS, Drawing(8))
        said = f"{server.address} is asked by chat messages"
        assert capsys.readouterr().out.startswith("" if is_vllm else said)


@pytest.mark.parametrize("url", ["http://[::1", "host:8000", "http://me:key@host"])
def test_an_address_that_is_none_is_refused(url, loaded):
    with pytest.raises(SamplerRefused, match=r"^address (is 'h|must hold no key)"):
        answer_prompts(Address(url, "x", 1.0, 2, loaded[1], ()), PROMPTS, SEEDS, Drawing(8))


def test_an_address_where_nobody_answers_is_refused(loaded):
    nobody = Address("http://127.0.0.1:9", "x", 1.0, 2, loaded[1], ())
    with pytest.raises(SamplerRefused, match="did not answer"):
        answer_prompts(nobody, PROMPTS, SEEDS, Drawing(8))


def test_a_refusal_is_not_repeated(loaded):
    with chat_server(lambda request: Answer(b"no such model", 404)) as server:
        address = address_with(server, loaded)._replace(parallel_requests=1)
        with pytest.raises(SamplerRefused, match="refuses: 404 no such model"):
            answer_prompts(address, PROMPTS[:1], SEEDS[:1], Drawing(8))
        asked = [heard.path for heard in server.heard]
        assert asked[:1] == ["/v1/completions"]
        assert asked[1:] in (["/v1/chat/completions"], ["/v1/chat/completions"] * 2)  # one each


@pytest.mark.parametrize("by_tokens", [True, False])
def test_a_prompt_that_is_refused_among_others_is_named(loaded, by_tokens):
    """The one that is asked first to see what the address can is taken, another one is not."""
    words = {"prompt": prompt_tokens(loaded[1], PROMPTS[3]), "messages": PROMPTS[3][-1].content}

    def answer(request):
        asked = request.get("prompt") or request["messages"][-1]["content"]
        if asked in words.values():
            return Answer(b'{"error": "maximum context length is 8"}', 400)
        return as_vllm(loaded)(request) if by_tokens else says("Yes.")

    with chat_server(answer if by_tokens else only_messages(answer)) as server:
        address = address_with(server, loaded)
        with pytest.raises(SamplerRefused, match=r"refuses: 400 .*maximum context") as refused:
            answer_prompts(address, PROMPTS, SEEDS, Drawing(8))
        assert f"the prompt that ends with {words['messages']!r}: " in str(refused.value)


@pytest.mark.parametrize("status", [408, 409, 429, 503])
def test_what_is_refused_for_now_is_asked_again(loaded, status):
    heard = []

    def answer(request):
        heard.append(request["seed"])
        busy = Answer(b"busy", status)
        return as_vllm(loaded)(request) if heard.count(request["seed"]) > 1 else busy

    with chat_server(answer) as server:
        found = answer_prompts(address_with(server, loaded), PROMPTS, SEEDS, Drawing(8))
    here = answer_prompts(Here(*loaded, 8), PROMPTS, SEEDS, Drawing(8))
    assert [answer.tokens for answer in found] == [answer.tokens for answer in here]


def test_an_address_that_stays_busy_is_refused_with_its_words(loaded):
    with (
        chat_server(lambda request: Answer(b"too many requests", 429)) as server,
        pytest.raises(SamplerRefused, match="did not answer: 429 too many requests"),
    ):
        answer_prompts(address_with(server, loaded), PROMPTS, SEEDS, Drawing(8))


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_not_ask_is_told_so_at_once(loaded, status):
    """It is no sign that the address takes no token ids."""
    with chat_server(lambda request: Answer(b"no such key", status)) as server:
        with pytest.raises(SamplerRefused, match=f"refuses: {status} no such key"):
            answer_prompts(address_with(server, loaded), PROMPTS, SEEDS, Drawing(8))
        assert [heard.path for heard in server.heard] == ["/v1/completions"]
