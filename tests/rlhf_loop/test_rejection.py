import pytest

from reward.preferences import Message
from reward.run_folder import RunFolder
from reward.score import Scorer
from rlhf_loop.config import RejectionConfig
from rlhf_loop.policy import load_chat_model
from rlhf_loop.prompts import PromptSplit, read_prompts
from rlhf_loop.rejection import run_rejection, select_best
from tests.rlhf_loop.conftest import make_prompt, read_lines


@pytest.fixture
def config(prompts, chat_model, judges, tmp_path):
    # 60 tokens: some of the random model's answers end by themselves, others are cut.
    return RejectionConfig(
        prompts=prompts, policy=chat_model, **judges, out=tmp_path / "run", device="cpu",
        samples=6, max_new_tokens=60, temperature=1.5, chunk_prompts=3, batch=4, epochs=1,
    )  # fmt: skip


def changed(config, **changes):
    return RejectionConfig(**{**vars(config), **changes})


def test_it_fine_tunes_on_the_best_finished_answer_of_each_train_prompt(config):
    result = run_rejection(config)
    candidates = read_lines(config.out / "candidates.jsonl")
    selected = read_lines(config.out / "selected.jsonl")
    known = {p.id: p for p in read_prompts(config.prompts, PromptSplit.TRAIN)}
    keys = {(line["prompt_id"], line["sample"]) for line in candidates}
    assert keys == {(name, k) for name in known for k in range(6)}
    assert len(candidates) == len(keys) == result["candidates"]
    assert 0 < len(selected) == result["selected"] == result["fine_tuned_on"]
    for line in selected:
        of_prompt = [c for c in candidates if c["prompt_id"] == line["prompt_id"]]
        usable = [c for c in of_prompt if c["finish_reason"] == "stop" and c["text"]]
        assert line["score"] == max(c["score"] for c in usable)
        assert line["messages"][-1]["content"] in {c["text"] for c in usable}
        prompt = known[line["prompt_id"]]
        assert (line["is_safety"], line["root"]) == (prompt.is_safety, prompt.root)
    load_chat_model(config.out / "model", "cpu")
    assert [line["step"] for line in RunFolder(config.out).metrics()][:3] == [1, 2, 3]
    means = list(result["best_of"].values())
    assert list(result["best_of"]) == ["1", "2", "4", "6"]
    assert means == sorted(means)
    assert run_rejection(config) == result  # a finished run does nothing


def test_the_scores_are_those_of_the_reward_models_on_message_lists(config):
    run_rejection(config)
    helpfulness = Scorer(config.helpfulness, "cpu")
    known = {p.id: p for p in read_prompts(config.prompts)}
    for line in read_lines(config.out / "candidates.jsonl")[:5]:
        dialogue = [*known[line["prompt_id"]].messages, Message("assistant", line["text"])]
        assert helpfulness([dialogue]).item() == pytest.approx(line["helpfulness"], abs=1e-5)


def test_a_run_that_was_killed_while_sampling_ends_the_same(config):
    whole = run_rejection(changed(config, out=config.out.with_name("whole")))
    text = (config.out.with_name("whole") / "candidates.jsonl").read_text()
    config.out.mkdir()
    (config.out / "candidates.jsonl").write_text(text[: 2 * len(text) // 3])
    assert run_rejection(config) == whole
    for name in ("candidates.jsonl", "selected.jsonl", "model/model.safetensors"):
        assert (config.out / name).read_bytes() == (
            config.out.with_name("whole") / name
        ).read_bytes()


def test_the_best_answers_of_earlier_rounds_compete(config):
    first = changed(config, out=config.out.with_name("first"))
    run_rejection(first)
    second = changed(
        config, out=config.out.with_name("second"), seed=1, samples=1,
        earlier=(first.out / "selected.jsonl",),
    )  # fmt: skip
    run_rejection(second)
    before = {line["prompt_id"]: line for line in read_lines(first.out / "selected.jsonl")}
    after = {line["prompt_id"]: line for line in read_lines(second.out / "selected.jsonl")}
    assert before.keys() <= after.keys()
    assert all(after[name]["score"] >= before[name]["score"] - 1e-5 for name in before)
    assert any(line["source"] == str(first.out / "selected.jsonl") for line in after.values())


def candidate(prompt_id, score, text="Yes.", finish_reason="stop"):
    scores = {"score": score, "helpfulness": score, "safety": 0.0}
    return {"prompt_id": prompt_id, "sample": 0, "text": text,
            "finish_reason": finish_reason, **scores}  # fmt: skip


def test_cut_and_empty_answers_are_never_selected():
    prompts = [make_prompt(0), make_prompt(1)]
    best = select_best(prompts, [
        candidate("p0", 1.0, "a"), candidate("p0", 9.0, "b", "length"), candidate("p0", 8.0, ""),
        candidate("p0", 2.0, "c"), candidate("p0", 2.0, "d"), candidate("p1", 5.0, "e", "length"),
    ])  # fmt: skip
    assert [line["messages"][-1]["content"] for line in best] == ["c"]


def test_a_run_in_which_nothing_can_be_selected_says_so(config):
    with pytest.raises(ValueError, match="was cut at max_new_tokens 1"):
        run_rejection(changed(config, max_new_tokens=1, samples=1, temperature=0.0))
