import json
from dataclasses import replace

import pytest

from reward.preferences import MalformedLine, Message
from rlhf_loop.prompts import (
    Prompt,
    PromptKind,
    PromptSplit,
    fixed_prompts,
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
