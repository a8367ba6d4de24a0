"""The shipped task of catalogue facts."""

from __future__ import annotations

import json

from demo.facts import SHIPPED, documents
from demo.gold import score
from demo.world import prompts
from rlhf_loop.measures.task_files import read_task


def test_it_works() -> None:
    found = read_task(SHIPPED)
    assert len(found) == 160
    assert {len(document.choices) for document in found} == {4}


def test_the_shipped_file_is_what_the_world_says() -> None:
    assert [json.loads(line) for line in SHIPPED.read_text().splitlines()] == documents()


def test_the_gold_scorer_finds_the_right_option_best() -> None:
    for document in documents():
        scores = [score(document["query"], choice).helpfulness for choice in document["choices"]]
        assert max(scores) == scores[document["gold"]], document
        assert sum(value == max(scores) for value in scores) == 1, document


def test_the_right_option_stands_everywhere_and_no_prompt_was_trained_on() -> None:
    places = [document["gold"] for document in documents()]
    assert min(places.count(place) for place in range(4)) > 20
    train = {prompt.text for prompt in prompts("train")}
    assert not train & {document["query"] for document in documents()}
