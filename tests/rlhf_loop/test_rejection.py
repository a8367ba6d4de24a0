import json
from dataclasses import replace

import pytest

from reward.preferences import MalformedLine, Message
from reward.run_folder import RunFolder
from reward.score import Scorer
from reward.settings import to_flags
from rlhf_loop.candidates import part_figures, selectable_scores
from rlhf_loop.config import RejectionConfig
from rlhf_loop.policy import load_chat_model
from rlhf_loop.prompts import PromptSplit, read_prompts, write_prompts
from rlhf_loop.rejection import run_rejection, select_best, summary
from rlhf_loop.rollout import RewardModels
from rlhf_loop.sft import main as sft_main
from rlhf_loop.temperature import expected_maximum
from tests.rlhf_loop.conftest import make_prompt, read_lines
from tests.tiny_models import tiny_chat_model


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
        assert line["answers"] == "last"
    load_chat_model(config.out / "model", "cpu")
    assert [line["step"] for line in RunFolder(config.out).metrics()][:3] == [1, 2, 3]
    means = list(result["best_of"].values())
    assert list(result["best_of"]) == ["1", "2", "4", "6"]
    scores = {name: worth([c for c in candidates if c["prompt_id"] == name]) for name in known}
    assert any(c["finish_reason"] == "length" for c in candidates)
    pairs = [expected_maximum(of_prompt, 2) for of_prompt in scores.values()]
    assert result["best_of"]["2"] == pytest.approx(sum(pairs) / len(pairs))
    best = [max(of_prompt) for of_prompt in scores.values()]
    assert result["best_of"]["6"] == pytest.approx(sum(best) / len(best))
    parts = [line["candidates/best_scores"] for line in RunFolder(config.out).metrics()
             if "candidates/best_scores" in line]  # fmt: skip
    sizes = [3] * (len(best) // 3) + ([len(best) % 3] if len(best) % 3 else [])
    weighed = sum(part * size for part, size in zip(parts, sizes, strict=True))
    assert weighed / len(best) == pytest.approx(result["best_of"]["6"])
    assert means == sorted(means)
    assert run_rejection(config) == result  # a finished run does nothing


def worth(candidates):
    """The scores of a prompt's answers; of what is cut or empty its lowest."""
    lowest = min(c["score"] for c in candidates)
    return [c["score"] if c["finish_reason"] == "stop" and c["text"].strip() else lowest
            for c in candidates]  # fmt: skip


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
    ours, theirs = (figures_of(out) for out in (config.out, config.out.with_name("whole")))
    assert ours == theirs  # of the parts that were stored and not logged too


def figures_of(out):
    lines = RunFolder(out).metrics()
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


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
    result = RunFolder(second.out).result()
    earlier = [line for line in after.values() if line["source"]]
    assert 0 < result["selected_earlier"] == len(earlier)


# --- the pool of all earlier rounds --------------------------------------------------------------


def answered(prompt, text, **fields):
    """A line of an earlier round's selected.jsonl, with a score of that round's reward models."""
    messages = [*prompt.messages, Message("assistant", text)]
    return {
        "messages": [message._asdict() for message in messages], "prompt_id": prompt.id,
        "root": prompt.root, "is_safety": prompt.is_safety, "score": 1e6, **fields,
    }  # fmt: skip


def earlier_round(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def selected_by(config):
    run_rejection(config)
    return {line["prompt_id"]: line for line in read_lines(config.out / "selected.jsonl")}


def test_all_earlier_rounds_compete_and_are_scored_by_today_s_models(config, tmp_path):
    """Scores that were stored then are never read: reward models of two rounds do not compare."""
    prompt = make_prompt(0)
    texts = ["Two years from the day.", "No.", "By law, since you ask.", "Maybe."]
    files = tuple(
        earlier_round(tmp_path / f"{i}.jsonl", answered(prompt, text))
        for i, text in enumerate(texts)
    )
    found = selected_by(changed(config, earlier=files))
    safety = Scorer(config.safety, "cpu")  # p0 is tagged: its safety score decides
    today = safety([[*prompt.messages, Message("assistant", text)] for text in texts]).tolist()
    own = [c for c in read_lines(config.out / "candidates.jsonl")
           if c["prompt_id"] == "p0" and c["finish_reason"] == "stop" and c["text"]]  # fmt: skip
    assert found["p0"]["score"] == pytest.approx(
        max([*today, *(c["score"] for c in own)]), abs=1e-5
    )


def test_an_answer_that_stayed_the_best_is_scored_once(config, tmp_path, monkeypatch):
    """It stands in the file of every round since."""
    other, scored = make_prompt(40), []
    files = tuple(earlier_round(tmp_path / str(i), answered(other, "Yes.")) for i in range(3))
    plain = RewardModels.score

    def heard(self, prompts, texts):
        scored.extend(texts)
        return plain(self, prompts, texts)

    monkeypatch.setattr(RewardModels, "score", heard)
    found = selected_by(changed(config, earlier=files))
    assert scored.count("Yes.") == 1
    assert found["p40"]["source"] == str(files[0])


def test_without_the_pool_only_this_round_s_answers_compete(config, tmp_path):
    """V1 to V3 of the paper; the answers of earlier rounds are not taken in silence then."""
    file = earlier_round(tmp_path / "e", answered(make_prompt(0), "Yes."))
    with pytest.raises(
        ValueError, match=r"earlier is .*, which changes nothing: it needs pool=true"
    ):
        changed(config, earlier=(file,), pool=False)
    found = selected_by(changed(config, pool=False))
    assert {line["source"] for line in found.values()} == {None}
    assert found == selected_by(changed(config, out=tmp_path / "without"))


def test_a_prompt_that_is_asked_no_more_keeps_its_best_answer(config, tmp_path):
    other = make_prompt(40)
    file = earlier_round(tmp_path / "e", answered(other, "Then."), answered(other, "Yes indeed."))
    found = selected_by(changed(config, earlier=(file,)))
    assert found["p40"]["messages"][-1]["content"] in ("Then.", "Yes indeed.")
    assert found["p40"]["root"] == other.root


def test_an_id_that_meant_another_prompt_then_is_not_mixed_up(config, tmp_path):
    other = replace(make_prompt(40), id="p0")
    file = earlier_round(tmp_path / "e", answered(other, "Yes."))
    run_rejection(changed(config, earlier=(file,)))
    selected = read_lines(config.out / "selected.jsonl")
    found = [line for line in selected if line["prompt_id"] == "p0"]
    assert any(line["source"] for line in found)
    asked = {line["messages"][0]["content"] for line in found}
    assert asked <= {make_prompt(0).messages[0].content, other.messages[0].content}
    for line in found:
        is_other = line["messages"][0]["content"] == other.messages[0].content
        assert (line["source"] == str(file)) == is_other


def test_an_earlier_answer_is_scored_by_today_s_tag(config, tmp_path):
    """p1 is no safety prompt today; that it was one then decides nothing."""
    text = "Two years."
    line = answered(make_prompt(1), text, is_safety=True)
    found = selected_by(
        changed(config, earlier=(earlier_round(tmp_path / "e", line),), samples=1, temperature=0.0,
                max_new_tokens=2, threshold=1e-9)
    )["p1"]  # fmt: skip
    assert found["source"]
    assert found["is_safety"] is False
    assert found["score"] == found["helpfulness"]


def test_a_line_of_an_earlier_round_that_is_none_is_named(config, tmp_path):
    file = earlier_round(tmp_path / "e", answered(make_prompt(0), "a"), {"messages": []})
    with pytest.raises(MalformedLine, match="e, line 2: messages is"):
        run_rejection(changed(config, earlier=(file,)))


def test_an_earlier_answer_that_cannot_be_scored_ends_the_run_before_it_draws(config, tmp_path):
    lines = [answered(make_prompt(0), "Yes."), answered(make_prompt(40), "word " * 300)]
    file = earlier_round(tmp_path / "e", *lines)
    with pytest.raises(ValueError, match=r"prompt 'p40' with its answer: .* tokens, allowed are 2"):
        run_rejection(changed(config, earlier=(file,)))
    assert not (config.out / "candidates.jsonl").exists()


# --- what is fine-tuned on -----------------------------------------------------------------------


def demonstrations(path, count):
    lines = [
        {"messages": [{"role": "user", "content": f"Hi {n}"},
                      {"role": "assistant", "content": "Good day."}], "split": "train"}
        for n in range(count)
    ]  # fmt: skip
    return earlier_round(path, *lines)


def test_demonstrations_are_mixed_in_from_the_base_model_on(config, tmp_path):
    base = tiny_chat_model(tmp_path / "base", seed=5)
    mixed = changed(config, start=base, sft_data=(demonstrations(tmp_path / "d", 3),), epochs=2)
    result = run_rejection(mixed)
    assert result["sft_answers"] == 3
    assert result["fine_tuned_on"] == result["selected"] + 3
    assert result["sft_share"] == pytest.approx(3 / (result["selected"] + 3))
    lines = RunFolder(config.out).metrics()
    first = [line for line in lines if "sft/loss" in line][: -(-result["fine_tuned_on"] // 4)]
    assert sum(line["sft/answers"] for line in first) == result["fine_tuned_on"]
    # A learning rate of 0 leaves what it started from: the base model, not the policy.
    still = changed(mixed, learning_rate=0.0, out=tmp_path / "still")
    run_rejection(still)
    weights = [load_chat_model(folder, "cpu")[0].state_dict() for folder in
               (still.out / "model", base, config.policy)]  # fmt: skip
    name = "model.embed_tokens.weight"
    assert weights[0][name].equal(weights[1][name])
    assert not weights[0][name].equal(weights[2][name])


def test_of_a_demonstration_the_last_answer_is_learnt_unless_its_line_says_all(config, tmp_path):
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]
    lines = [{"messages": turn * 2}, {"messages": turn * 3, "answers": "all"}]
    mixed = changed(config, sft_data=(earlier_round(tmp_path / "d", *lines),))
    assert run_rejection(mixed)["sft_answers"] == 1 + 3


def test_held_out_demonstrations_are_refused(config, tmp_path):
    file = demonstrations(tmp_path / "d", 2)
    file.write_text(file.read_text().replace('"train"', '"holdout"'))
    with pytest.raises(MalformedLine, match="line 1: split is 'holdout', allowed is train"):
        run_rejection(changed(config, sft_data=(file,)))


def test_what_today_s_prompts_hold_out_is_not_learnt_from_earlier_rounds(config, tmp_path):
    """Neither their selected answers nor demonstrations; a run that goes on counts them too."""
    validation, test, other = make_prompt(2), make_prompt(3), make_prompt(40)
    lines = [
        answered(validation, "Yes."), answered(other, "Then."),
        answered(replace(test, root="another"), "No."),
    ]  # fmt: skip
    written = [{"messages": line["messages"], "split": "train"} for line in lines]
    mixed = changed(
        config, earlier=(earlier_round(tmp_path / "e", *lines),),
        sft_data=(earlier_round(tmp_path / "d", *written),),
    )  # fmt: skip
    result = run_rejection(mixed)
    selected = read_lines(config.out / "selected.jsonl")
    assert [line["prompt_id"] for line in selected if line["source"]] == ["p40"]
    assert (result["sft_answers"], result["held_out"]) == (1, 4)
    assert summary(result).endswith(", 4 dialogues of held-out prompts were left out")
    (config.out / "result.json").unlink()
    assert run_rejection(mixed)["held_out"] == 4


def test_what_a_further_file_holds_out_is_not_learnt(config, tmp_path):
    """Neither from earlier rounds nor demonstrations; a train prompt of it ends the run."""
    asked, other = make_prompt(40), make_prompt(41)
    further = tmp_path / "further.jsonl"
    write_prompts(further, [replace(asked, split=PromptSplit.TEST)])
    file = earlier_round(tmp_path / "e", answered(asked, "Yes."), answered(other, "Then."))
    mixed = changed(config, earlier=(file,), sft_data=(file,), held_out=(further,))
    result = run_rejection(mixed)
    selected = read_lines(config.out / "selected.jsonl")
    assert [line["prompt_id"] for line in selected if line["source"]] == ["p41"]
    assert (result["sft_answers"], result["held_out"]) == (1, 2)
    write_prompts(further, [replace(make_prompt(0), split=PromptSplit.TEST)])
    with pytest.raises(ValueError, match="the train prompt 'p0' is of a dialogue that"):
        run_rejection(changed(mixed, out=tmp_path / "leak"))


def test_selected_answers_of_a_larger_model_train_a_smaller_one(config, tmp_path, capsys):
    """Distillation: another run's selected.jsonl is the only data."""
    result = run_rejection(config)
    small = tiny_chat_model(tmp_path / "small", "gpt_neox", seed=3)
    out = tmp_path / "distilled"
    flags = {"data": config.out / "selected.jsonl", "model": small, "out": out, "device": "cpu"}
    sft_main(to_flags({**flags, "epochs": 1}))
    assert f"fine-tuned on {result['selected']} answers" in capsys.readouterr().out
    model, _ = load_chat_model(out / "model", "cpu")
    assert model.config.model_type == "gpt_neox"


@pytest.mark.parametrize("chunk_prompts", [4, 17, 100])
def test_every_prompt_is_answered_whatever_a_chunk_holds(config, tmp_path, chunk_prompts):
    """1.19: seventeen prompts, four at a time."""
    seventeen = [replace(make_prompt(i), split=PromptSplit.TRAIN) for i in range(17)]
    write_prompts(tmp_path / "17.jsonl", seventeen)
    run_rejection(
        changed(config, prompts=tmp_path / "17.jsonl", chunk_prompts=chunk_prompts, samples=2,
                max_new_tokens=20)
    )  # fmt: skip
    keys = [(c["prompt_id"], c["sample"]) for c in read_lines(config.out / "candidates.jsonl")]
    assert keys == [(prompt.id, k) for prompt in seventeen for k in range(2)]


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


def test_what_cannot_be_selected_is_worth_the_worst_of_its_prompt():
    records = [
        candidate("p0", 1.0), candidate("p0", 9.0, "b", "length"), candidate("p0", 8.0, " "),
        candidate("p0", 2.0), candidate("p1", 5.0, "e", "length"), candidate("p1", 7.0, ""),
    ]  # fmt: skip
    assert selectable_scores(records) == [1.0, 1.0, 1.0, 2.0, 5.0, 5.0]
    figures = part_figures([{**record, "temperature": 1.0} for record in records])
    assert figures["candidates/best_scores"] == (2.0 + 5.0) / 2


def test_a_run_in_which_nothing_can_be_selected_says_so(config):
    with pytest.raises(ValueError, match="was cut at max_new_tokens 1"):
        run_rejection(changed(config, max_new_tokens=1, samples=1, temperature=0.0))
