import json

import pytest

from reward.preferences import MalformedLine
from rlhf_loop.prompts import Prompt, PromptKind, read_prompts, write_prompts
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
