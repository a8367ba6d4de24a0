"""Answers by way of an address: what is asked of it, and what is said when it cannot.

``transformers serve`` is the real one, in a process of its own. vLLM is no part of the tests: the
server that answers token ids plays its protocol (drawing_server).
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch

from rlhf_loop import engines
from rlhf_loop.config import EvaluateConfig, RejectionConfig
from rlhf_loop.engines import (
    Address,
    Here,
    SamplerRefused,
    answer_prompts,
    engine_for,
    hand_over,
    serve,
)
from rlhf_loop.evaluate import evaluate
from rlhf_loop.policy import (
    Drawing,
    answer_text,
    load_chat_model,
    prompt_tokens,
    save_chat_model,
    stop_tokens,
)
from rlhf_loop.rejection import run_rejection
from rlhf_loop.replay import differences
from tests.kill_round import STAGES, inputs
from tests.reward.chat_server import Answer, chat_server, says
from tests.rlhf_loop.conftest import make_prompt, read_lines
from tests.rlhf_loop.drawing_server import as_vllm

PROMPTS = [make_prompt(i).messages for i in range(5)]
SEEDS = list(range(5))


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    monkeypatch.setattr(engines, "_mentioned", set())
    monkeypatch.setattr(engines, "_seeds_seen", set())
    monkeypatch.setattr(engines, "_handed", {})
    monkeypatch.setattr(engines, "_checked", {})
    monkeypatch.setattr(engines, "_said", {})
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def loaded(chat_model):
    return load_chat_model(chat_model, "cpu")


def address_with(server, loaded) -> Address:
    stops = tuple(sorted(stop_tokens(*loaded)))
    return Address(server.address, "policy", 10.0, 4, loaded[1], stops)


def only_messages(answer):
    """The same from a server that knows no token ids."""
    refused = Answer(b'{"detail": "prompt must be a string."}', 422)
    return lambda request: answer(request) if "messages" in request else refused


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


# --- new weights ---------------------------------------------------------------------------------


def rejection_config(tmp_path, chat_model, judges, prompts, **changed):
    values = {
        "prompts": prompts, "policy": chat_model, **judges, "out": tmp_path / "run", "samples": 2,
        "max_new_tokens": 8, "epochs": 1, "batch": 8,
    }  # fmt: skip
    return RejectionConfig(**{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"hand_over": "x {folder}"}, "are for an address, and none is given"),
        ({"served_model": "x"}, "are for an address, and none is given"),
        ({"address": "http://x", "hand_over": "reload"}, "allowed are commands with {folder}"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path, chat_model, judges, prompts, changed, sentence
):
    with pytest.raises(ValueError, match=sentence):
        rejection_config(tmp_path, chat_model, judges, prompts, **changed)


def test_each_policy_is_handed_over_once(tmp_path, chat_model, judges, prompts, loaded):
    note, code = tmp_path / "handed", 'import sys; open(sys.argv[1], "a").write(sys.argv[2])'
    command = f"{sys.executable} -c '{code}' {note} {{folder}};"
    with chat_server(as_vllm(loaded)) as server:
        config = rejection_config(
            tmp_path, chat_model, judges, prompts, address=server.address, hand_over=command
        )
        for _ in range(3):
            address = engine_for(config, *loaded)
        once = len(server.heard)
        assert note.read_text() == f"{chat_model};"
        assert (address.model, address.url) == (str(chat_model), server.address)
        hand_over(config, "other")
        engine_for(config, *loaded)
    assert note.read_text() == f"{chat_model};other;{chat_model};"
    assert len(server.heard) > once > len(engines.PROBES)  # looked at again, once each


@pytest.mark.parametrize("changed", ["head", "trunk"])
def test_an_address_that_kept_a_part_of_the_old_weights_is_refused(
    tmp_path, chat_model, judges, prompts, loaded, changed
):
    """As vLLM 0.32 does on a CPU: of tied weights the output's are those from before."""
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    noise = torch.Generator().manual_seed(0)
    weight = {"head": model.lm_head, "trunk": model.model.layers[0].mlp.down_proj}[changed].weight
    other = weight + 30 * weight.std() * torch.randn(weight.shape, generator=noise)
    if changed == "head":
        model.lm_head.weight = torch.nn.Parameter(other)  # no longer tied
    else:
        weight.data = other
    with chat_server(as_vllm((model, tokenizer))) as server:
        config = rejection_config(tmp_path, chat_model, judges, prompts, address=server.address)
        refused = rf"{server.address} does not serve {chat_model}: .* allowed by weights_tolerance"
        with pytest.raises(SamplerRefused, match=refused):
            engine_for(config, *loaded)
        engine_for(replace(config, weights_tolerance=50.0), *loaded)


def test_weights_that_are_rounded_are_taken(tmp_path, chat_model, judges, prompts, loaded):
    rounded = copy.deepcopy(loaded[0]).to(torch.bfloat16)
    with chat_server(as_vllm((rounded, loaded[1]))) as server:
        config = rejection_config(tmp_path, chat_model, judges, prompts, address=server.address)
        assert engine_for(config, *loaded).url == server.address


def test_an_address_that_kept_weights_a_small_step_away_is_refused(
    tmp_path, chat_model, judges, prompts, loaded
):
    """Less than is allowed for rounding: it is found since it says what was said before."""
    stepped, noise = copy.deepcopy(loaded[0]), torch.Generator().manual_seed(0)
    for weight in stepped.model.layers.parameters():
        weight.data += 0.02 * weight.std() * torch.randn(weight.shape, generator=noise)
    before, after = ((copy.deepcopy(m).to(torch.bfloat16), loaded[1]) for m in (loaded[0], stepped))
    serving = [before]
    with chat_server(lambda request: as_vllm(serving[-1])(request)) as server:
        config = rejection_config(tmp_path, chat_model, judges, prompts, address=server.address)
        served = partial(serve, config, tokenizer=loaded[1])
        served(model=loaded[0], folder="one")
        with pytest.raises(SamplerRefused, match=r"does not serve two: .* what it served before"):
            served(model=stepped, folder="two")
        serving.append(after)
        served(model=stepped, folder="two")
        served(model=stepped, folder="the same weights")


def test_without_log_probabilities_nothing_is_refused(
    tmp_path, chat_model, judges, prompts, loaded
):
    with chat_server(as_vllm(loaded, logprobs=None)) as server:
        config = rejection_config(tmp_path, chat_model, judges, prompts, address=server.address)
        assert engine_for(config, *loaded).url == server.address


def test_a_hand_over_that_fails_ends_the_run(tmp_path, chat_model, judges, prompts):
    command = f"{sys.executable} -c 'import sys; sys.exit(\"the server is full\")' {{folder}}"
    config = rejection_config(
        tmp_path, chat_model, judges, prompts, address="http://x", hand_over=command
    )
    with pytest.raises(SamplerRefused, match=r"was not handed .* the server is full"):
        run_rejection(config)


def test_one_name_for_two_models_is_refused(chat_model, judges, prompts, tmp_path):
    """Old and new would both be answered for by whatever is served under it."""
    settings = {
        "prompts": prompts, "policy": chat_model, "against": chat_model, **judges,
        "out": tmp_path / "run", "address": "http://x", "served_model": "policy",
    }  # fmt: skip
    with pytest.raises(ValueError, match="served_model is 'policy', and two chat models are asked"):
        EvaluateConfig(**settings)
    assert EvaluateConfig(**settings, hand_over="reload {folder}")


@pytest.mark.parametrize(
    ("name", "fewer"),
    [
        ("evaluate", []),
        ("ghost attention", ["--dialogues", "6"]),
        ("context distillation", []),
        ("instruction keeping", ["--dialogues", "4"]),
    ],
)
def test_every_stage_that_draws_can_ask_an_address(stages_read, tmp_path, name, fewer):
    """What it leaves is bit for bit what it leaves when it draws itself."""
    stage = STAGES[name]
    main = importlib.import_module(f"rlhf_loop.{stage.command}").main
    models = {str(path): load_chat_model(path, "cpu") for path in map(stages_read.get, MODELS)}
    asked = []

    def answer(request):
        asked.append(request["model"])
        return as_vllm(models[request["model"]])(request)

    main([*stage.flags(stages_read, tmp_path / "here"), *fewer])
    with chat_server(answer) as server:
        flags = [*stage.flags(stages_read, tmp_path / "there"), *fewer]
        main([*flags, "--address", server.address])
    assert set(asked) == {str(stages_read[name]) for name in stage.reads.values() if name in MODELS}
    assert list(differences(tmp_path / "here", tmp_path / "there")) == []


MODELS = ("brief", "chat")


@pytest.fixture(scope="module")
def stages_read(tmp_path_factory):
    return inputs(tmp_path_factory.mktemp("inputs"))


# --- transformers serve --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(loaded, tmp_path_factory):
    """A running ``transformers serve``: its address, and a folder that it can serve."""
    folder = tmp_path_factory.mktemp("served") / "policy"
    save_chat_model(*loaded, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1",
        "--port", str(port), "--log-level", "error",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    log = folder.with_name("log.txt")
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{address}/health", timeout=1).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
            assert server.poll() is None, log.read_text()[-2000:]
        yield address, folder
    finally:
        server.terminate()
        server.wait(20)


def test_transformers_serve_answers_as_this_process_does(served, capsys):
    address, folder = served
    loaded = load_chat_model(folder, "cpu")
    stops = tuple(sorted(stop_tokens(*loaded)))
    there = Address(address, str(folder), 60.0, 1, loaded[1], stops)
    greedy = Drawing(12, temperature=0)
    found = answer_prompts(there, PROMPTS, SEEDS, greedy)
    here = answer_prompts(Here(*loaded, 8), PROMPTS, SEEDS, greedy)
    for one, other in zip(found, here, strict=True):
        assert answer_text(loaded[1], one) == answer_text(loaded[1], other)
        assert one.finished == other.finished
    assert "is asked by chat messages and answers with text" in capsys.readouterr().out


def test_transformers_serve_draws_from_all_tokens(served):
    """A folder saved here says top-k 0; the server's own default leaves out all but 50."""
    address, folder = served
    loaded = load_chat_model(folder, "cpu")
    there = Address(address, str(folder), 60.0, 1, loaded[1], ())
    found = answer_prompts(there, PROMPTS[:1] * 150, list(range(150)), Drawing(1, temperature=5.0))
    assert len({answer.text for answer in found}) > 60


def test_stages_draw_from_an_address(served, judges, prompts, tmp_path):
    address, folder = served
    config = rejection_config(
        tmp_path, folder, judges, prompts, address=address, parallel_requests=1,
        max_new_tokens=40, temperature=1.5, samples=6,
    )  # fmt: skip
    result = run_rejection(config)
    lines = read_lines(tmp_path / "run/candidates.jsonl")
    assert result["candidates"] == len(lines) == 8 * 6
    found = evaluate(
        EvaluateConfig(
            prompts=prompts,
            policy=folder,
            against=folder,
            **judges,
            out=tmp_path / "evaluated",
            address=address,
            parallel_requests=1,
            max_new_tokens=8,
            temperature=0.0,
        )
    )
    assert found["all"]["combined"]["difference"] == 0
