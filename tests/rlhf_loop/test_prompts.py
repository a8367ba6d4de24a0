import json
from dataclasses import replace

import pytest

from reward.preferences import MalformedLine, Message
from rlhf_loop.config import Inputs, PPOConfig
from rlhf_loop.ppo import _prompts, train
from rlhf_loop.prompts import (
    Prompt,
    PromptKind,
    PromptSplit,
    fixed_prompts,
    learnt_prompts,
    read_prompts,
    write_prompts,
)
from tests.rlhf_loop.conftest import make_prompt


def test_it_works(tmp_path):
    prompts = [make_prompt(i) for i in range(3)]
    borderline = Prompt("b", "root", prompts[0].messages, False, is_borderline=True)
    write_prompts(tmp_path / "prompts.jsonl", [*prompts, borderline])
    found = list(read_prompts(tmp_path / "prompts.jsonl"))
    assert found == [*prompts, borderline]
    kinds = [PromptKind.ADVERSARIAL, *[PromptKind.HELPFULNESS] * 2, PromptKind.BORDERLINE]
    assert [prompt.kind for prompt in found] == kinds


def lines(tmp_path, **changes):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({**make_prompt(0).record(), **changes}) + "\n")
    return path


def test_a_file_from_before_there_were_kinds_is_read(tmp_path):
    record = make_prompt(1).record()
    del record["kind"]
    (tmp_path / "old.jsonl").write_text(json.dumps(record) + "\n")
    (found,) = read_prompts(tmp_path / "old.jsonl")
    assert found.kind is PromptKind.HELPFULNESS


@pytest.mark.parametrize("changes", [
    {"kind": "borderline"}, {"kind": "helpfulness"}, {"kind": "adversarial", "is_safety": False},
    {"kind": "other"},
])  # fmt: skip
def test_a_kind_that_contradicts_the_tag_is_refused(tmp_path, changes):
    with pytest.raises(MalformedLine, match="line 1: kind is"):
        list(read_prompts(lines(tmp_path, **changes)))


def test_a_safety_prompt_cannot_be_borderline():
    prompt = make_prompt(0)
    with pytest.raises(ValueError, match="cannot be borderline"):
        Prompt("x", "y", prompt.messages, True, is_borderline=True)


def test_an_id_that_stands_twice_is_refused(tmp_path):
    """Both would be given the same answers, since these are drawn under the id."""
    write_prompts(tmp_path / "prompts.jsonl", [make_prompt(0), make_prompt(1), make_prompt(0)])
    with pytest.raises(MalformedLine, match="line 3: id is"):
        list(read_prompts(tmp_path / "prompts.jsonl"))


TRAIN, VALIDATION, TEST = PromptSplit


@pytest.mark.parametrize(("first", "second", "allowed"), [
    (TRAIN, TEST, "train"), (TRAIN, VALIDATION, "train"), (TEST, TRAIN, "validation or test"),
])  # fmt: skip
def test_a_root_on_both_sides_is_refused_whatever_is_read(tmp_path, first, second, allowed):
    """Two turns of a dialogue: a model would train on what it is judged by."""
    file = tmp_path / "prompts.jsonl"
    opening = replace(make_prompt(0), root="r", split=first)
    write_prompts(file, [opening, make_prompt(1), replace(make_prompt(2), root="r", split=second)])
    sentence = f"line 3: split is '{second}', allowed is {allowed}, as an earlier line of the root"
    for split in (None, TRAIN, VALIDATION, TEST):
        with pytest.raises(MalformedLine, match=sentence):
            list(read_prompts(file, split))


def test_the_same_request_on_both_sides_is_refused_whatever_roots_the_lines_name(tmp_path):
    """Case and white space apart, as a re-typed request would have it."""
    file = tmp_path / "prompts.jsonl"
    train = replace(make_prompt(0), root="p0", messages=(Message("user", "Why  ME?"),))
    test = replace(make_prompt(1), root="p1", messages=(Message("user", "why me?"),), split=TEST)
    write_prompts(file, [train, replace(make_prompt(2), root="p2"), test])
    with pytest.raises(MalformedLine, match="line 3: split is 'test', allowed is train, as an"):
        list(read_prompts(file, TRAIN))


def test_a_root_is_held_out_for_validation_and_test_alike(tmp_path):
    prompts = [replace(make_prompt(i), root="r", split=(TEST, VALIDATION)[i % 2]) for i in range(4)]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert list(read_prompts(tmp_path / "prompts.jsonl")) == prompts


@pytest.mark.parametrize("split", [VALIDATION, TEST])
def test_prompts_that_a_further_file_holds_out_are_refused(tmp_path, split):
    """By what was asked, and by the root that a line names."""
    file, further, named = (tmp_path / name for name in ("prompts", "further", "named"))
    write_prompts(file, [make_prompt(i) for i in range(4)])
    train = list(read_prompts(file, TRAIN))
    write_prompts(further, [replace(train[1], id="x", root="other", split=split)])
    write_prompts(named, [replace(make_prompt(9), root=train[0].root, split=split)])
    for other, prompt in ((further, train[1]), (named, train[0])):
        sentence = f"{file}: the train prompt '{prompt.id}' is of a dialogue that {other} validates"
        with pytest.raises(ValueError, match=sentence):
            learnt_prompts(file, TRAIN, [file, other])
    write_prompts(further, [replace(train[1], id="x", root="other")])
    assert learnt_prompts(file, TRAIN, [further]) == train


def test_ppo_learns_from_no_prompt_that_a_further_file_tests_on(prompts, rejection, tmp_path):
    """What it validates on is learnt by nobody, and may stand there."""
    further = tmp_path / "further.jsonl"
    write_prompts(further, (replace(p, split=TEST) for p in read_prompts(prompts, TRAIN)))
    shared = {name: getattr(rejection, name) for name in Inputs.__dataclass_fields__}
    config = PPOConfig(**shared, held_out=(further,))
    with pytest.raises(ValueError, match="the train prompt 'p0' is of a dialogue that"):
        train(config)
    write_prompts(further, read_prompts(prompts, VALIDATION))
    for split in (TRAIN, VALIDATION):
        assert _prompts(config, split) == list(read_prompts(prompts, split))


def test_the_prompts_that_are_drawn_stay_the_same():
    every = [make_prompt(i) for i in range(16)]
    chosen = fixed_prompts(every, 5)
    assert len(chosen) == 5
    again = [replace(p, id=f"other-{p.id}") for p in reversed(every)]
    assert {p.messages for p in fixed_prompts(again, 5)} == {p.messages for p in chosen}
    without = [p for p in every if p != chosen[0]]
    assert set(chosen[1:]) <= set(fixed_prompts(without, 5))
    assert fixed_prompts(every, 16) == every  # in their order


def test_prompts_of_every_kind_are_drawn_of_a_file_that_is_sorted_by_kind():
    every = sorted((make_prompt(i) for i in range(60)), key=lambda prompt: prompt.is_safety)
    assert {p.is_safety for p in every[:30]} == {False}
    assert {p.is_safety for p in fixed_prompts(every, 30)} == {True, False}
