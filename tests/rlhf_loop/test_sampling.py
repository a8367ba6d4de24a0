from dataclasses import replace

import pytest

from reward.run_folder import RunFolder
from rlhf_loop.config import SamplingConfig
from rlhf_loop.policy import load_chat_model
from rlhf_loop.prompts import PromptSplit, read_prompts, write_prompts
from rlhf_loop.replay import differences
from rlhf_loop.sampling import sample
from rlhf_loop.serving import SamplerRefused
from tests.reward.chat_server import Answer, chat_server
from tests.rlhf_loop.conftest import make_prompt, read_lines
from tests.rlhf_loop.drawing_server import LastHanded

pytestmark = pytest.mark.usefixtures("nobody_asked")


def test_it_answers_every_prompt_with_every_model(prompts, chat_model, tmp_path):
    config = SamplingConfig(
        prompts=prompts, model=(chat_model, chat_model), temperature=(0.7, 1.2), top_p=0.9,
        max_new_tokens=6, out=tmp_path, chunk_prompts=3,
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


def test_a_split_without_prompts_is_refused(chat_model, tmp_path):
    """A run that is done has answers."""
    train = tmp_path / "train.jsonl"
    write_prompts(train, [make_prompt(0)])
    config = SamplingConfig(prompts=train, model=(chat_model,), out=tmp_path / "run", split="test")
    with pytest.raises(ValueError, match=r"train.jsonl has no test prompts, and sampling needs"):
        sample(config)
    train.write_text("")
    with pytest.raises(ValueError, match=r"train.jsonl has no prompts, and sampling needs some"):
        sample(replace(config, split=None))
    assert RunFolder(config.out).result() is None


def test_it_continues_where_it_was_killed(prompts, chat_model, tmp_path, monkeypatch):
    def configured(name):
        return SamplingConfig(
            prompts=prompts, model=(chat_model,), max_new_tokens=6, out=tmp_path / name,
            chunk_prompts=4, split=PromptSplit.TRAIN,
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
        ({"model": ()}, "model is empty, allowed are folders"),
        ({"address": "http://x", "model": ("a", "b"), "served_model": "x"},
         "served_model is 'x', and two chat models are asked"),
        ({"model": ("a",), "hand_over": "x {folder}"}, "are for an address, and none is given"),
        ({"model": ("a", "b"), "temperature": (1.0, 1.0, 1.0)}, "temperature has 3 values"),
        ({"model": ("a",), "temperature": (-1.0,)}, "temperature is -1.0"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        SamplingConfig(prompts=tmp_path, out=tmp_path, **settings)


# --- at an address -------------------------------------------------------------------------------


def both(prompts, chat_model, brief_model, out, **chosen):
    return SamplingConfig(
        prompts=prompts, model=(chat_model, brief_model), max_new_tokens=8, out=out, device="cpu",
        **chosen,
    )  # fmt: skip


def test_an_address_is_handed_each_folder_before_its_first_answer(
    prompts, chat_model, brief_model, tmp_path
):
    """Under one name; the answers are those of this process."""
    sample(both(prompts, chat_model, brief_model, tmp_path / "here"))
    engine = LastHanded(tmp_path / "note")
    with chat_server(engine) as server:
        sample(
            both(prompts, chat_model, brief_model, tmp_path / "there",
                 address=f"{server.address}/v1/", served_model="policy", hand_over=engine.hand_over)
        )  # fmt: skip
        assert {heard.request["model"] for heard in server.heard} == {"policy"}
        assert {heard.path for heard in server.heard} == {"/v1/completions"}
    assert engine.folders == [str(chat_model), str(brief_model)]
    assert list(differences(tmp_path / "here", tmp_path / "there")) == []


def test_an_address_that_keeps_the_first_folder_is_refused(
    prompts, chat_model, brief_model, tmp_path
):
    """Before it has answered for the second one; what the first said stays."""
    engine = LastHanded(tmp_path / "note", most=1)
    with chat_server(engine) as server:
        config = both(prompts, chat_model, brief_model, tmp_path / "run",
                      address=server.address, hand_over=engine.hand_over)  # fmt: skip
        with pytest.raises(SamplerRefused, match=f"does not serve {brief_model}: "):
            sample(config)
    lines = read_lines(tmp_path / "run" / "responses.jsonl")
    assert {line["model_index"] for line in lines} == {0}
    assert RunFolder(tmp_path / "run").result() is None


def test_an_address_that_refuses_ends_the_run(prompts, chat_model, tmp_path):
    with chat_server(lambda request: Answer(b"no such model", 500)) as server:
        config = SamplingConfig(
            prompts=prompts,
            model=(chat_model,),
            max_new_tokens=8,
            address=server.address,
            out=tmp_path,
        )
        with pytest.raises(SamplerRefused, match="did not answer"):
            sample(config)
    assert RunFolder(tmp_path).result() is None
    assert sample(replace(config, address=None))["responses"] > 0  # put right in the same folder


def test_answers_are_of_the_settings_that_they_were_begun_with(
    prompts, chat_model, brief_model, tmp_path, monkeypatch
):
    """Killed between the first answers and their figures too."""
    config = both(prompts, chat_model, brief_model, tmp_path)

    def stop(*_, **figures):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            sample(config)
    assert read_lines(tmp_path / "responses.jsonl")
    with pytest.raises(ValueError, match="was started with seed=0, not 1: use another --out"):
        sample(replace(config, seed=1))
