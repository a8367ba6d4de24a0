"""Answers before and after, found and sorted without keeping their texts."""

from __future__ import annotations

import json
import os

import pytest

from annotation_app import samples
from annotation_app.samples import kind_of, ordered, places, read
from reward.lines import write_records
from tests.annotation_app import played


def record(number: int, gain: float, **more: object) -> dict:
    asked = played.prompt(number)
    return {
        "prompt_id": asked.id, "is_safety": asked.is_safety, "kind": asked.kind,
        "request": f"Frage {number}: wie groß? ✓", "before": played.answer("Before.", 1.0),
        "after": played.answer(f"After {number} \u2028 ünd.", 1.0 + gain), **more,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "responses.jsonl"
    write_records(
        file, [record(n, gain) for n, gain in enumerate([0.5, -1.0, 2.0, 0.0, -0.5, 1.0])]
    )
    return file


def shown(file, kind="", order="gain", score="combined", draw=0) -> list[int]:
    chosen = ordered(places(file), kind, order, score, draw)
    return [int(it["prompt_id"].removeprefix("test-")) for it in read(file, chosen)]


def test_it_works(file):
    assert shown(file) == [2, 5, 0, 3, 4, 1]
    assert shown(file, order="fall") == [1, 4, 3, 0, 5, 2]
    assert shown(file, score="safety") == [1, 4, 3, 0, 5, 2]
    assert shown(file, kind="adversarial") == [2, 5]
    assert shown(file, kind="helpfulness", order="fall") == [3, 0]


def test_a_draw_stays_the_same_and_another_is_another(file):
    first = shown(file, order="random", draw=1)
    assert first == shown(file, order="random", draw=1)
    assert sorted(first) == list(range(6))
    assert any(shown(file, order="random", draw=n) != first for n in range(2, 6))


def test_only_the_lines_of_a_page_are_read(file, monkeypatch):
    found = ordered(places(file), "", "gain", "combined", 0)
    parsed = []
    loads = json.loads
    monkeypatch.setattr(samples.json, "loads", lambda line: parsed.append(1) or loads(line))
    assert places(file) is places(file)
    assert [it["request"] for it in read(file, found[1:3])] == [
        "Frage 5: wie groß? ✓", "Frage 0: wie groß? ✓",
    ]  # fmt: skip
    assert len(parsed) == 2


def test_a_file_that_was_written_anew_is_read_anew(file):
    assert len(places(file)) == 6
    write_records(file, [record(7, 1.0)])
    os.utime(file, ns=(1, 1))
    assert len(places(file)) == 1


def test_older_runs_say_less():
    assert kind_of({"is_safety": True}) == "adversarial"
    assert kind_of({"is_safety": False}) == "helpfulness"


def test_an_independent_score_stands_beside_the_others(tmp_path):
    file = tmp_path / "responses.jsonl"
    line = record(0, 1.0)
    line["before"]["independent"], line["after"]["independent"] = 0.5, 0.25
    write_records(file, [line])
    (sample,) = read(file, places(file))
    assert sample["scores"][-1] == ("independent", 0.5, 0.25, -0.25)
