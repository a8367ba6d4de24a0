"""Aggregation, the pairs file, and what a malformed line is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.preferences import (
    ContradictorySafety,
    MalformedLine,
    Message,
    Origin,
    PreferenceStrength,
    SafetyLabel,
    Verdict,
    aggregate,
    dialogue_root,
    read_pairs,
    to_record,
    write_pairs,
)
from tests.reward.pairs import pair

BETTER, SLIGHTLY = PreferenceStrength.BETTER, PreferenceStrength.SLIGHTLY_BETTER


def verdicts(*choices: str) -> list[Verdict]:
    return [Verdict(f"annotator{n}", choice) for n, choice in enumerate(choices)]


@pytest.mark.parametrize(
    ("choices", "choice", "share"),
    [("a", "a", 1), ("aab", "a", 2 / 3), ("ab", None, 0.5), (["tie"], None, 0.5),
     (["a", "tie", "tie"], None, 0.5), (["a", "tie"], None, 0.5),
     (["b", "b", "tie"], "b", 2 / 3)],
)  # fmt: skip
def test_majority(choices, choice, share):
    joined = aggregate(verdicts(*choices))
    assert (joined.choice, joined.share) == (choice, pytest.approx(share))


def test_weights_decide():
    assert aggregate([Verdict("x", "a", weight=1.0), Verdict("y", "b", weight=3.0)]).choice == "b"


def test_strength_is_the_lower_median_of_the_majority():
    given_ = [Verdict("x", "a", BETTER), Verdict("y", "a", SLIGHTLY), Verdict("z", "a", None)]
    assert aggregate(given_).strength is SLIGHTLY
    assert aggregate(verdicts("a")).strength is None


def test_safe_flags_are_joined_per_response_first():
    rows = [Verdict("x", "a", None, True, False), Verdict("y", "a", None, True, True),
            Verdict("z", "a", None, True, False)]  # fmt: skip
    assert aggregate(rows).safety is SafetyLabel.CHOSEN_SAFE
    assert aggregate(rows[:2]).safety is None  # an even split is unknown


def test_contradiction_is_refused():
    with pytest.raises(ContradictorySafety):
        aggregate([Verdict("x", "a", None, False, True)])


@given(st.text(), st.text())
def test_root_ignores_case_and_white_space(system, user):
    messages = [Message("system", system), Message("user", user)]
    shouted = [Message("system", system), Message("user", f"  {user.casefold()}\n ")]
    assert dialogue_root(messages) == dialogue_root(shouted)


def test_round_trip(tmp_path):
    origin = Origin("RLHF-V1", 0.8, 1.0, 7)
    rows = [
        pair(1),
        pair(2, "safety", parent="pair-1", turn=2, verdicts=(Verdict("x", "a", BETTER),),
             chosen_from=origin, rejected_from=None),
    ]  # fmt: skip
    write_pairs(tmp_path / "pairs.jsonl", rows)
    assert list(read_pairs(tmp_path / "pairs.jsonl")) == rows
    first = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    assert list(first)[:3] == ["prompt", "chosen", "rejected"]
    assert first["chosen"][0]["role"] == "assistant"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"criterion": "truth"}, "criterion is 'truth', allowed is helpfulness, safety"),
        ({"strength": "much"}, "strength is 'much', allowed is significantly_better"),
        ({"share": 2}, "share is 2, allowed is a number from 0 to 1"),
        ({"turn": "1"}, "turn is '1', allowed is a whole number"),
        ({"chosen": "text"}, "chosen is 'text', allowed is a list"),
        (
            {"chosen": [{"role": "user", "content": "x"}]},
            "allowed is exactly one assistant message",
        ),
        (
            {"rejected": [{"role": "assistant", "content": "x"}] * 2},
            "allowed is exactly one assistant message",
        ),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "messages that end with a user"),
        ({"verdicts": [{"annotator": "x", "choice": "c"}]}, "choice is 'c', allowed is a, b, tie"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, change, sentence):
    file = tmp_path / "pairs.jsonl"
    bad = {**to_record(pair(2)), **change}
    file.write_text(json.dumps(to_record(pair(1))) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(MalformedLine) as refused:
        list(read_pairs(file))
    assert f"{file}, line 2: " in str(refused.value)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "line", ["{", "[]", '"text"', "\xff", "[" * 100_000, '{"a": ' + "[" * 100_000]
)
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    file = tmp_path / "pairs.jsonl"
    file.write_text(line, encoding="latin-1")
    with pytest.raises(MalformedLine, match="line 1: the line is"):
        list(read_pairs(file))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": [{"role": "user", "content": "Why \ud800?"}]},
        {"id": "\udfff"},
        {"more": {"\ud800": 1}},
    ],
)
def test_half_a_character_is_no_text(tmp_path, change):
    """JSON can write it; a tokenizer's TypeError would name neither file nor line."""
    file = tmp_path / "pairs.jsonl"
    bad = {**to_record(pair(2)), **change}
    file.write_text(json.dumps(to_record(pair(1))) + "\n" + json.dumps(bad) + "\n")
    sentence = rf"pairs.jsonl, line 2: {next(iter(change))} is .*, allowed is text without half"
    with pytest.raises(MalformedLine, match=sentence):
        list(read_pairs(file))
    whole = {**to_record(pair(2)), "source": "\U0001f600"}  # a pair of them is a character
    file.write_text(json.dumps(whole) + "\n")
    assert [found.source for found in read_pairs(file)] == ["\U0001f600"]
