"""Stages that draw in this process, or from an address: ``transformers serve`` is the real one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from rlhf_loop.config import EvaluateConfig
from rlhf_loop.engines import Here, answer_prompts
from rlhf_loop.evaluate import evaluate
from rlhf_loop.policy import Drawing, answer_text, load_chat_model, save_chat_model, stop_tokens
from rlhf_loop.rejection import run_rejection
from rlhf_loop.replay import differences
from rlhf_loop.serving import Address
from tests.kill_round import STAGES, inputs
from tests.ports import free_port
from tests.reward.chat_server import chat_server
from tests.rlhf_loop.conftest import make_prompt, read_lines
from tests.rlhf_loop.drawing_server import as_vllm

PROMPTS = [make_prompt(i).messages for i in range(5)]
SEEDS = list(range(5))

pytestmark = pytest.mark.usefixtures("nobody_asked")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"hand_over": "x {folder}"}, "are for an address, and none is given"),
        ({"served_model": "x"}, "are for an address, and none is given"),
        ({"address": "http://x", "hand_over": "reload"}, "allowed are commands with {folder}"),
    ],
)
def test_settings_that_do_not_fit_are_refused(rejection, changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(rejection, **changed)


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
def served(chat_model, tmp_path_factory):
    """A running ``transformers serve``: its address, and a folder that it can serve."""
    folder = tmp_path_factory.mktemp("served") / "policy"
    save_chat_model(*load_chat_model(chat_model, "cpu"), folder)
    port = free_port()
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


def test_stages_draw_from_an_address(rejection, served, judges, prompts, tmp_path):
    address, folder = served
    there = {"policy": folder, "address": address, "parallel_requests": 1}
    config = replace(rejection, **there, max_new_tokens=40, temperature=1.5, samples=6)
    result = run_rejection(config)
    lines = read_lines(tmp_path / "run/candidates.jsonl")
    assert result["candidates"] == len(lines) == 8 * 6
    found = evaluate(
        EvaluateConfig(
            prompts=prompts, against=folder, **judges, out=tmp_path / "evaluated", **there,
            max_new_tokens=8, temperature=0.0,
        )
    )  # fmt: skip
    assert found["all"]["combined"]["difference"] == 0
