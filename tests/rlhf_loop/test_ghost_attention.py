"""Ghost Attention: where the instruction stands, and which tokens are learnt."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from reward.measures.resampling import Draws
from reward.preferences import MalformedLine, Message
from rlhf_loop.config import GhostAttentionConfig, InstructionKeepingConfig, LearntAnswers
from rlhf_loop.constraints import Constraint
from rlhf_loop.engines import answer_prompts
from rlhf_loop.ghost_attention import (
    Script,
    build,
    sampling_messages,
    training_messages,
    with_instruction,
)
from rlhf_loop.ghost_attention import summary as build_summary
from rlhf_loop.instruction_keeping import figures, keep, summary
from rlhf_loop.learning.likelihood import reading, token_logprobs
from rlhf_loop.policy import Answer, load_chat_model, stop_tokens
from rlhf_loop.prompts import Prompt, PromptSplit, read_prompts, write_prompts
from rlhf_loop.serving import SamplerRefused
from rlhf_loop.sft import answer_row, joined, read_answers
from tests.reward.chat_server import chat_server, says
from tests.rlhf_loop.conftest import make_prompt, read_lines

SCRIPT = Script(0, ("How long?", "Why so?", "Is it safe?"), "Say please.", ())
ANSWERS = ["Two years.", "By law.", "Yes, please."]
ANYTHING = {"kind": "any", "instruction": "Say {value}.", "terse": "Say: {value}",
            "values": ["something"], "check": {"pattern": ""}}  # fmt: skip


def test_it_works():
    """The golden case: a dialogue of three turns, word for word and token for token."""
    assert [m.content for m in sampling_messages(SCRIPT, ANSWERS[:2])] == [
        "Say please.\n\nHow long?", "Two years.", "Say please.\n\nWhy so?", "By law.",
        "Say please.\n\nIs it safe?",
    ]  # fmt: skip
    messages = training_messages(SCRIPT, ANSWERS)
    assert [m.content for m in messages] == [
        "Say please.\n\nHow long?", "Two years.", "Why so?", "By law.", "Is it safe?",
        "Yes, please.",
    ]  # fmt: skip


def test_tokens_and_mask_of_a_dialogue(chat_model):
    """Llama 2, section 3.3: ``inst`` exactly once, in u_1; a loss on the last answer only."""
    model, tokenizer = load_chat_model(chat_model, "cpu")
    row = answer_row(tokenizer, training_messages(SCRIPT, ANSWERS), stop_tokens(model, tokenizer))
    text = tokenizer.decode(row.tokens)
    assert text == (
        "<|user|>Say please.\n\nHow long?<|end|><|assistant|>Two years.<|end|>"
        "<|user|>Why so?<|end|><|assistant|>By law.<|end|>"
        "<|user|>Is it safe?<|end|><|assistant|>Yes, please.<|end|>"
    )
    assert text.count("Say please.") == 1
    assert text.index("Say please.") < text.index("<|assistant|>")
    last = tokenizer.encode("Yes, please.<|end|>")
    learnt = joined([row]).wanted
    assert learnt == list(range(len(row.tokens) - len(last), len(row.tokens)))
    assert [row.tokens[place] for place in learnt] == last


def test_what_is_learnt_does_not_reach_earlier_answers(chat_model):
    """The loss is that of the last answer's tokens by the model's own forward, and of no others."""
    model, tokenizer = load_chat_model(chat_model, "cpu")
    row = answer_row(tokenizer, training_messages(SCRIPT, ANSWERS), stop_tokens(model, tokenizer))
    ids = torch.tensor([row.tokens])
    with torch.no_grad():
        own = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        with reading(model) as read:
            found = token_logprobs(read, [joined([row])])
    torch.testing.assert_close(found, own[row.answer_start - 1 :], atol=1e-5, rtol=0)


@pytest.fixture
def anything(tmp_path):
    path = tmp_path / "constraints.json"
    path.write_text(json.dumps({"constraints": [ANYTHING]}))
    return path


@pytest.fixture
def config(prompts, brief_model, anything, tmp_path):
    return GhostAttentionConfig(
        prompts=prompts, policy=brief_model, out=tmp_path / "run", constraints=anything,
        device="cpu", dialogues=24, shortest_turns=2, longest_turns=3, max_new_tokens=12,
    )  # fmt: skip


def test_dialogues_are_drawn_turn_by_turn(config, chat_model):
    result = build(config)
    lines = read_lines(config.out / "dialogues.jsonl")
    assert 0 < len(lines) == result["dialogues"] <= result["begun"] == 24
    assert sum(result["left_out"].values()) == 24 - len(lines)
    instructions = {line["instruction"] for line in lines}
    assert instructions <= {"Say something.", "Say: something"}
    _, tokenizer = load_chat_model(chat_model, "cpu")
    for line in lines:
        messages = [Message(**message) for message in line["messages"]]
        assert [m.role for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert messages[0].content.startswith(with_instruction(line["instruction"], ""))
        assert sum(line["instruction"] in m.content for m in messages) == 1
        assert line["root"] in {prompt.root for prompt in read_prompts(config.prompts)}
        assert answer_row(tokenizer, messages).answer_start > 0
    # Drawn under a repeated instruction, earlier answers are not learnt whatever the setting.
    files = [config.out / "dialogues.jsonl"]
    rows, _ = read_answers(files, tokenizer, frozenset(), LearntAnswers.ALL)
    assert len(rows) == len(lines)
    assert build(config) == result  # a finished run does nothing


def test_a_killed_run_ends_the_same(config, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_loop.ghost_attention.CHUNK_DIALOGUES", 10)
    whole = replace(config, out=tmp_path / "whole")
    build(whole)
    drawn = (whole.out / "drawn.jsonl").read_text()
    config.out.mkdir()
    (config.out / "drawn.jsonl").write_text(drawn[: 2 * len(drawn) // 3])
    build(config)
    for name in ("drawn.jsonl", "dialogues.jsonl"):
        assert (config.out / name).read_bytes() == (whole.out / name).read_bytes()


def with_context(model, folder, tokens):
    """The same model, whose context is that long."""
    shutil.copytree(model, folder)
    kept = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(kept | {"max_position_embeddings": tokens}))
    return folder


def test_a_dialogue_ends_where_its_next_answer_has_no_room(config, brief_model, tmp_path):
    """A third request with its history has 75 tokens or more; the others are as they were."""
    build(config)
    small = with_context(brief_model, tmp_path / "small", 75 + config.max_new_tokens - 1)
    result = build(replace(config, policy=small, out=tmp_path / "ended"))
    assert list(result["turns"]) == ["2"]
    whole, ended = (read_lines(out / "dialogues.jsonl") for out in (config.out, tmp_path / "ended"))
    assert {len(line["messages"]) for line in whole} == {4, 6}
    assert len(ended) == len(whole)
    for line, other in zip(ended, whole, strict=True):
        assert line["messages"] == other["messages"][:4]


def test_dialogues_that_have_no_room_from_the_start_are_left_out(config, brief_model, tmp_path):
    small = with_context(brief_model, tmp_path / "small", config.max_new_tokens)
    result = build(replace(config, policy=small))
    assert result["left_out"] == {"an answer was cut, empty or without room": 24}


def test_dialogues_of_held_out_prompts_say_so_and_are_never_learnt(config):
    held_out = replace(config, split=PromptSplit.TEST)
    build(held_out)
    assert {line["split"] for line in read_lines(config.out / "dialogues.jsonl")} == {"test"}
    model, tokenizer = load_chat_model(config.policy, "cpu")
    with pytest.raises(MalformedLine, match="split is 'test', allowed is train"):
        read_answers([config.out / "dialogues.jsonl"], tokenizer, stop_tokens(model, tokenizer))


def test_prompts_that_a_further_file_tests_on_are_refused(config, tmp_path):
    further = tmp_path / "further.jsonl"
    write_prompts(further, [replace(make_prompt(1), split=PromptSplit.TEST)])
    with pytest.raises(ValueError, match="the train prompt 'p1' is of a dialogue that"):
        build(replace(config, held_out=(further,)))


def test_dialogues_that_do_not_obey_are_left_out(config, tmp_path):
    path = tmp_path / "strict.json"
    never = {**ANYTHING, "check": {"pattern": "^never said$"}}
    path.write_text(json.dumps({"constraints": [never]}))
    result = build(replace(config, constraints=path))
    reason = "the last answer does not obey"
    assert (result["dialogues"], sum(result["left_out"].values())) == (0, 24)
    assert build_summary(result).startswith("0 of 24 dialogues can be trained on (")
    assert f"{reason}: {result['left_out'][reason]}" in build_summary(result)
    model, tokenizer = load_chat_model(config.policy, "cpu")
    file = config.out / "dialogues.jsonl"
    assert read_answers([file], tokenizer, stop_tokens(model, tokenizer)) == ([], 0)
    assert build(replace(config, constraints=path, only_obeying=False, out=tmp_path / "all"))


def test_lists_of_values_come_from_the_model_where_it_is_asked(config, tmp_path):
    path = tmp_path / "asking.json"
    path.write_text(json.dumps({"constraints": [{**ANYTHING, "ask": "List some words."}]}))
    values = build(replace(config, constraints=path, lists_drawn=4))["values"]["any"]
    assert values[0] == "something"


def test_no_value_is_taken_that_no_answer_could_be_checked_against(config, tmp_path, monkeypatch):
    path = tmp_path / "asking.json"
    asking = {**ANYTHING, "ask": "List languages.", "values": ["French"]}
    path.write_text(json.dumps({"constraints": [{**asking, "check": {"language": "{value}"}}]}))

    def named(engine, prompts, *rest):
        if prompts and prompts[0][0].content == "List languages.":
            return [Answer([], True, text="Dutch\nKlingon\nGreek")]
        return answer_prompts(engine, prompts, *rest)

    monkeypatch.setattr("rlhf_loop.ghost_attention.answer_prompts", named)
    found = build(replace(config, constraints=path, lists_drawn=1, only_obeying=False))
    assert found["values"] == {"any": ["French", "Dutch", "Greek"]}


def test_values_are_drawn_once(config, tmp_path, monkeypatch):
    """Started again with an engine that names others, a run goes on with those it began with."""
    path = tmp_path / "asking.json"
    path.write_text(json.dumps({"constraints": [{**ANYTHING, "ask": "List some words."}]}))
    config = replace(config, constraints=path, lists_drawn=1)
    lists = iter(["golf\nyoga", "surfing\nski"])

    def of_two_engines(engine, prompts, *rest):
        if prompts and prompts[0][0].content == "List some words.":
            return [Answer([], True, text=next(lists))]
        return answer_prompts(engine, prompts, *rest)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_loop.ghost_attention.answer_prompts", of_two_engines)
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_loop.ghost_attention.make_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            build(config)
    with pytest.raises(ValueError, match="was started with seed=0, not 1"):
        build(replace(config, seed=1))
    assert build(config)["values"] == {"any": ["something", "golf", "yoga"]}
    words = {
        line["instruction"].split()[-1].strip(".")
        for line in read_lines(config.out / "drawn.jsonl")
    }
    assert words == {"something", "golf", "yoga"}


def test_safety_prompts_are_not_asked(config, tmp_path):
    unsafe = tmp_path / "unsafe.jsonl"
    write_prompts(unsafe, [make_prompt(0)])
    with pytest.raises(ValueError, match="has no train prompts without a safety tag"):
        build(replace(config, prompts=unsafe))


def test_a_dialogue_may_not_be_shorter_than_its_shortest(config):
    with pytest.raises(ValueError, match="shortest_turns is 5, allowed are up to longest_turns 3"):
        replace(config, shortest_turns=5)


# --- the multi-turn evaluation -------------------------------------------------------------------


@pytest.fixture
def keeping(prompts, chat_model, anything, tmp_path):
    return InstructionKeepingConfig(
        prompts=prompts, policy=chat_model, out=tmp_path / "kept", constraints=anything,
        device="cpu", turns=(2, 4), dialogues=6, max_new_tokens=6, resamples=50,
    )  # fmt: skip


def test_what_is_put_right_before_the_first_answer_needs_no_other_folder(keeping):
    with pytest.raises(SamplerRefused, match="did not answer"):
        keep(replace(keeping, address="http://127.0.0.1:9"))
    assert keep(keeping)["dialogues"] == 6


def test_answers_are_of_the_settings_that_they_were_begun_with(keeping, monkeypatch):
    """Killed between the first turn and its figures too."""

    def stop(*_, **figures):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlhf_loop.instruction_keeping._say", stop)
        with pytest.raises(KeyboardInterrupt):
            keep(keeping)
    with pytest.raises(ValueError, match="was started with seed=0, not 1: use another --out"):
        keep(replace(keeping, seed=1))


def test_every_turn_is_answered_and_some_are_judged(keeping):
    result = keep(keeping)
    assert result["dialogues"] == 6
    assert list(result["turns"]) == ["2", "4"]
    assert result["turns"]["4"]["share"] == 1  # an empty pattern is found everywhere
    lines = read_lines(keeping.out / "after.jsonl")
    assert [line["turn"] for line in lines] == [1, 2, 3, 4]
    assert {len(line["answers"]) for line in lines} == {6}
    assert result["cut_short"] == {"after": {"2": 0, "4": 0}}
    assert keep(keeping) == result


def test_a_dialogue_without_room_obeys_at_no_later_turn(keeping, chat_model, tmp_path):
    """The third prompt has 50 tokens or more: whatever would have been said, it was not."""
    keep(keeping)
    small = with_context(chat_model, tmp_path / "small", 50 + keeping.max_new_tokens - 1)
    result = keep(replace(keeping, policy=small, against=chat_model, out=tmp_path / "ended"))
    assert result["cut_short"] == {"after": {"2": 0, "4": 6}, "before": {"2": 0, "4": 0}}
    assert (result["turns"]["2"]["share"], result["turns"]["4"]["share"]) == (1, 0)
    assert result["turns"]["4"]["change"]["before"] == 1
    assert "turn 4: 100.0% → 0.0% still obey" in summary(result)
    assert summary(result).endswith(", 6 of 6 dialogues had no room left")
    whole, ended = (read_lines(out / "after.jsonl") for out in (keeping.out, tmp_path / "ended"))
    assert ended[:2] == whole[:2]
    assert [line["answers"] for line in ended[2:]] == [[None] * 6] * 2


def test_a_judge_is_not_asked_about_turns_that_never_came(keeping, chat_model, tmp_path):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"constraints": [{**ANYTHING, "check": {"judge": True}}]}))
    small = with_context(chat_model, tmp_path / "small", 50 + keeping.max_new_tokens - 1)
    with chat_server(lambda request: says("VERDICT: YES")) as server:
        found = replace(keeping, policy=small, constraints=path, judge_address=server.address,
                        judge_model="wise")  # fmt: skip
        assert keep(found)["turns"]["4"]["share"] == 0
        assert len(server.heard) == 6


def test_a_killed_run_keeps_the_turns_that_were_answered(keeping, tmp_path, monkeypatch):
    whole = replace(keeping, out=tmp_path / "whole")
    result, asked = keep(whole), []

    def killed_at_the_third(*given):
        asked.append(given)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer_prompts(*given)

    monkeypatch.setattr("rlhf_loop.instruction_keeping.answer_prompts", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        keep(keeping)
    assert len(read_lines(keeping.out / "after.jsonl")) == 2
    assert keep(keeping) == result
    assert len(asked) == 5  # two turns, the third one twice, the fourth
    for name in ("after.jsonl", "result.json"):
        assert (keeping.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_the_instruction_is_given_once_however_long_the_dialogue(keeping, monkeypatch):
    asked = []

    def noted(engine, prompts, *rest):
        asked.extend([message.content for message in messages] for messages in prompts)
        return answer_prompts(engine, prompts, *rest)

    monkeypatch.setattr("rlhf_loop.instruction_keeping.answer_prompts", noted)
    keep(keeping)
    assert {len(contents) for contents in asked} == {1, 3, 5, 7}
    for contents in asked:
        assert contents[0].startswith("Say")
        assert not any(content.startswith("Say") for content in contents[1:])


def test_two_models_are_compared_on_the_same_dialogues(keeping, chat_model, tmp_path):
    result = keep(replace(keeping, against=chat_model, out=tmp_path / "two"))
    change = result["turns"]["2"]["change"]
    assert (change["before"], change["after"], change["difference"]) == (1, 1, 0)


def test_shares_by_hand():
    after = {2: [True] * 4, 4: [True, False, False, False]}
    found = figures(after, {2: [True] * 4, 4: [False] * 4}, Draws(200))
    assert (found["2"]["share"], found["4"]["share"]) == (1, 0.25)
    assert found["2"]["low"] < 1  # four of four is no certainty
    assert (found["4"]["change"]["before"], found["4"]["change"]["difference"]) == (0, 0.25)


def test_a_judge_decides_where_there_is_no_rule(keeping, tmp_path):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"constraints": [{**ANYTHING, "check": {"judge": True}}]}))
    asked = replace(keeping, constraints=path)
    with pytest.raises(ValueError, match="no constraint has a rule: give a judge_address"):
        keep(replace(asked, out=tmp_path / "unasked"))
    with chat_server(lambda request: says("Hm.\nVERDICT: YES")) as server:
        found = replace(asked, judge_address=server.address, judge_model="wise")
        result = keep(found)
        assert result["turns"]["2"]["share"] == 1
        assert len(server.heard) == 12  # six dialogues at two turns
        assert "<instruction>\nSay" in server.heard[0].request["messages"][-1]["content"]


def test_what_the_judge_does_not_say_is_a_no(keeping, tmp_path):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"constraints": [{**ANYTHING, "check": {"judge": True}}]}))
    with chat_server(lambda request: says("I like it.")) as server:
        found = replace(keeping, constraints=path, judge_address=server.address, judge_model="w")
        assert keep(found)["turns"]["2"]["share"] == 0


def test_half_a_judge_is_refused(keeping):
    with pytest.raises(ValueError, match="a judge needs both"):
        replace(keeping, judge_address="http://127.0.0.1:9")


def test_turns_of_several_requests_come_one_after_the_other(keeping, tmp_path):
    messages = tuple(
        Message(role, text) for role, text in
        (("system", "Be kind."), ("user", "One?"), ("assistant", "Yes."), ("user", "Two?"))
    )  # fmt: skip
    path = tmp_path / "long.jsonl"
    write_prompts(path, [Prompt("long", "root", messages, False, None, PromptSplit.TEST)])
    keep(replace(keeping, prompts=path, dialogues=1))


def test_a_constraint_is_a_record():
    constraint = Constraint("a", "b", "c", "marker", "d")
    assert Constraint(**constraint.record()) == constraint
