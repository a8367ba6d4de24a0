import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reward.run_folder import RunFolder
from rlhf_loop.config import SamplingConfig
from rlhf_loop.engines import SamplerRefused
from rlhf_loop.policy import load_chat_model
from rlhf_loop.prompts import PromptSplit, read_prompts
from rlhf_loop.sampling import sample
from tests.rlhf_loop.conftest import read_lines


def test_it_answers_every_prompt_with_every_model(prompts, chat_model, tmp_path):
    config = SamplingConfig(
        prompts=prompts, model=(chat_model, chat_model), temperature=(0.7, 1.2), top_p=0.9,
        max_new_tokens=6, out=tmp_path, generation_rows=3,
    )  # fmt: skip
    result = sample(config)
    lines = read_lines(tmp_path / "responses.jsonl")
    wanted = {(prompt.id, index) for prompt in read_prompts(prompts) for index in (0, 1)}
    assert {(line["prompt_id"], line["model_index"]) for line in lines} == wanted
    assert len(lines) == len(wanted) == result["responses"]
    for line in lines:
        assert line["temperature"] == (0.7, 1.2)[line["model_index"]]
        assert (line["model"], line["top_p"]) == (chat_model.name, 0.9)
        assert line["finish_reason"] in ("stop", "length")
    assert len({line["seed"] for line in lines}) == len(lines)
    steps = [(line["step"], line["total"]) for line in RunFolder(tmp_path).metrics()]
    assert steps == [(n, 12) for n in range(1, 13)]  # of either model 16 answers, 3 at a time


def test_it_continues_where_it_was_killed(prompts, chat_model, tmp_path, monkeypatch):
    def configured(name):
        return SamplingConfig(
            prompts=prompts, model=(chat_model,), max_new_tokens=6, out=tmp_path / name,
            generation_rows=4, split=PromptSplit.TRAIN,
        )  # fmt: skip

    whole = sample(configured("whole"))
    expected = (tmp_path / "whole/responses.jsonl").read_text()
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "responses.jsonl").write_text(expected[: expected.index("\n") + 40])
    loaded = []
    monkeypatch.setattr(
        "rlhf_loop.sampling.load_chat_model",
        lambda *a: loaded.append(a) or load_chat_model(*a),
    )
    assert sample(configured("cut")) == whole
    assert (cut / "responses.jsonl").read_text() == expected
    assert len(loaded) == 1
    sample(configured("cut"))
    assert len(loaded) == 1  # a finished run loads nothing


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "give --model folders"),
        ({"address": "http://x", "model": ("a",)}, "no --model folders"),
        ({"address": "http://x"}, "--served-model names"),
        ({"model": ("a", "b"), "temperature": (1.0, 1.0, 1.0)}, "temperature has 3 values"),
        ({"model": ("a",), "temperature": (-1.0,)}, "temperature is -1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        SamplingConfig(prompts=tmp_path, out=tmp_path, **settings)


class Sampler(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that repeats the request, or refuses model "broken"."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        broken = request["model"] == "broken" or self.path != "/v1/chat/completions"
        text = f"{request['messages'][-1]['content']} {request['temperature']}"
        message = {"role": "assistant", "content": text}
        choices = [{"message": message, "finish_reason": "length"}]
        body = json.dumps({"choices": choices}).encode()
        self.send_response(500 if broken else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sampler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
def test_it_asks_an_address(prompts, tmp_path, address, suffix):
    config = SamplingConfig(
        prompts=prompts, address=address + suffix, served_model=("one", "two"),
        temperature=(0.5, 0.9), out=tmp_path,
    )  # fmt: skip
    sample(config)
    lines = read_lines(tmp_path / "responses.jsonl")
    texts = {prompt.id: prompt.messages[-1].content for prompt in read_prompts(prompts)}
    assert len(lines) == 2 * len(texts)
    for line in lines:
        assert line["text"] == f"{texts[line['prompt_id']]} {line['temperature']}"
        assert line["finish_reason"] == "length"
        assert line["model"] == ("one", "two")[line["model_index"]]


def test_an_address_that_refuses_ends_the_run(prompts, tmp_path, address, monkeypatch):
    monkeypatch.setattr("rlhf_loop.engines.time.sleep", lambda seconds: None)
    config = SamplingConfig(
        prompts=prompts, address=address, served_model=("broken",), out=tmp_path
    )
    with pytest.raises(SamplerRefused, match="did not answer"):
        sample(config)
    assert RunFolder(tmp_path).result() is None
