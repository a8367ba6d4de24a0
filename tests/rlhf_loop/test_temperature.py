"""The sweep: its estimator against brute force, its pick, and its run."""

import itertools
import json
import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.run_folder import RunFolder
from reward.score import Scorer
from rlhf_loop.config import TemperatureConfig
from rlhf_loop.prompts import PromptSplit, read_prompts, write_prompts
from rlhf_loop.temperature import (
    expected_maximum,
    expected_median,
    expected_order_statistic,
    main,
    picked,
    scores_by_temperature,
    sweep,
)
from tests.rlhf_loop.conftest import make_prompt, read_lines


@pytest.fixture
def config(prompts, chat_model, judges, tmp_path):
    return TemperatureConfig(
        prompts=prompts, policy=chat_model, **judges, out=tmp_path / "run", device="cpu",
        samples=4, max_new_tokens=40, temperatures=(0.5, 1.5), chunk_prompts=3,
        split=PromptSplit.TRAIN,
        prompt_count=5,
    )  # fmt: skip


def changed(config, **changes):
    return TemperatureConfig(**{**vars(config), **changes})


def test_it_works(config):
    result = sweep(config)
    samples = read_lines(config.out / "samples.jsonl")
    assert len(samples) == 2 * 5 * 4
    assert result["prompts"] == 5
    assert result["pick_at"] == result["samples"] == 4
    assert [row["temperature"] for row in result["curve"]] == [0.5, 1.5]
    assert result["temperature"] in (0.5, 1.5)
    for row in result["curve"]:
        assert list(row["max"]) == list(row["median"]) == ["1", "2", "4"]
        means = [found["mean"] for found in row["max"].values()]
        assert means == sorted(means)
        assert all(found["low"] <= found["mean"] <= found["high"] for found in row["max"].values())
        assert row["max"]["1"] == row["median"]["1"]
    assert [line["step"] for line in RunFolder(config.out).metrics()] == [1, 2, 3, 4]
    assert sweep(config) == result  # a finished run does nothing


def test_the_scores_are_those_that_rejection_sampling_chooses_by(config):
    sweep(config)
    known = {p.id: p for p in read_prompts(config.prompts)}
    safety = Scorer(config.safety, "cpu")
    line = next(
        line for line in read_lines(config.out / "samples.jsonl")
        if known[line["prompt_id"]].is_safety
    )  # fmt: skip
    messages = [*known[line["prompt_id"]].messages, ("assistant", line["text"])]
    said = [type(known[line["prompt_id"]].messages[0])(*message) for message in messages]
    assert line["score"] == pytest.approx(safety([said]).item(), abs=1e-5)


def test_every_temperature_has_the_same_random_numbers(config):
    sweep(config)
    seeds = {}
    for line in read_lines(config.out / "samples.jsonl"):
        seeds.setdefault(line["temperature"], []).append((line["prompt_id"], line["seed"]))
    assert seeds[0.5] == seeds[1.5]
    assert len(set(seeds[0.5])) == 20


def test_a_sweep_that_was_killed_ends_the_same(config):
    whole = changed(config, out=config.out.with_name("whole"))
    expected = sweep(whole)
    text = (whole.out / "samples.jsonl").read_text()
    config.out.mkdir()
    (config.out / "samples.jsonl").write_text(text[: 2 * len(text) // 3])
    assert sweep(config) == expected
    assert (config.out / "samples.jsonl").read_text() == text


def test_prompts_that_are_not_there_are_named(config, tmp_path):
    none = tmp_path / "none.jsonl"
    write_prompts(none, [make_prompt(0)])
    with pytest.raises(ValueError, match="has no validation prompts, and a sweep needs some"):
        sweep(changed(config, prompts=none, split=PromptSplit.VALIDATION))


# --- the estimator -------------------------------------------------------------------------------

SCORES = st.lists(st.floats(-5, 5, allow_nan=False), min_size=1, max_size=7)


@given(SCORES)
def test_the_closed_form_is_the_mean_over_all_subsets(scores):
    for count in range(1, len(scores) + 1):
        subsets = list(itertools.combinations(scores, count))
        best, middle = (statistics.fmean(map(f, subsets)) for f in (max, statistics.median))
        assert expected_maximum(scores, count) == pytest.approx(best, abs=1e-9)
        assert expected_median(scores, count) == pytest.approx(middle, abs=1e-9)
        for place in range(1, count + 1):
            brute = statistics.fmean(sorted(subset)[place - 1] for subset in subsets)
            found = expected_order_statistic(scores, count, place)
            assert found == pytest.approx(brute, abs=1e-9)


def test_the_ends_are_the_mean_and_the_best():
    scores = [0.3, -1.0, 2.0, 0.1]
    assert expected_maximum(scores, 1) == pytest.approx(statistics.fmean(scores))
    assert expected_median(scores, 1) == pytest.approx(statistics.fmean(scores))
    assert expected_maximum(scores, 4) == 2.0
    assert expected_median(scores, 4) == pytest.approx(statistics.median(scores))


def test_worked_values():
    """Of 1, 2, 3, 4 the six pairs have the maxima 2, 3, 4, 3, 4, 4 and the medians 1.5 … 3.5; the
    four triples the medians 2, 2, 3, 3."""
    assert expected_maximum([4, 2, 3, 1], 2) == pytest.approx(20 / 6)
    assert expected_median([4, 2, 3, 1], 2) == pytest.approx(2.5)
    assert expected_median([4, 2, 3, 1], 3) == pytest.approx(2.5)
    assert expected_maximum([4, 2, 3, 1], 3) == pytest.approx(15 / 4)


def test_a_hundred_answers_lose_no_precision():
    assert expected_maximum([i / 100 for i in range(100)], 50) == pytest.approx(
        (50 * 101 / 51 - 1) / 100  # E[max] of 50 of 1 … 100
    )


@pytest.mark.parametrize("count", [0, 4])
def test_more_answers_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=f"count is {count}, allowed is 1 to 3"):
        expected_maximum([1.0, 2.0, 3.0], count)


# --- the pick ------------------------------------------------------------------------------------


def test_the_best_of_many_picks_the_temperature(config):
    """The mean speaks for 0.5, the best of four for 1.5."""
    scores = {1.5: [[0.0, 0.1, 0.2, 0.9]] * 3, 0.5: [[0.5, 0.5, 0.5, 0.6]] * 3}
    by_best = picked(scores, config)
    assert (by_best["temperature"], by_best["pick_at"]) == (1.5, 4)
    assert picked(scores, changed(config, pick_at=1))["temperature"] == 0.5
    behind = {row["temperature"]: row["behind"]["mean"] for row in by_best["curve"]}
    assert behind == pytest.approx({0.5: -0.3, 1.5: 0.0})


def test_dialogue_roots_are_the_units_of_chance(config, tmp_path):
    """Five prompts of one dialogue are no five witnesses."""
    alike = tmp_path / "alike.jsonl"
    write_prompts(alike, [replace(make_prompt(4 * i), root="one") for i in range(5)])
    for row in sweep(changed(config, prompts=alike))["curve"]:
        for found in (*row["max"].values(), *row["median"].values(), row["behind"]):
            assert (found["low"], found["high"]) == (None, None)


def test_of_equal_ones_the_lower_temperature_is_picked(config):
    scores = {1.2: [[0.1, 0.2, 0.3, 0.6]], 0.8: [[0.6, 0.1, 0.2, 0.3]]}
    assert picked(scores, config)["temperature"] == 0.8


def record(temperature, score, text="Yes.", finish_reason="stop", name="p"):
    return {"temperature": temperature, "prompt_id": name, "score": score, "text": text,
            "finish_reason": finish_reason}  # fmt: skip


def test_what_cannot_be_selected_counts_as_the_worst_answer():
    scores, unusable = scores_by_temperature([
        record(0.5, 0.0), record(0.5, -2.0), record(1.5, 9.0, "cut off", "length"),
        record(1.5, 5.0, " "),
    ])  # fmt: skip
    low = 1 / (1 + math.exp(2))
    assert scores[0.5] == [pytest.approx([0.5, low])]
    assert scores[1.5] == [pytest.approx([low, low])]
    assert unusable == {"0.5": 0.0, "1.5": 1.0}


def test_prompts_pair_up_in_whatever_order_they_come():
    lines = [record(0.5, 1.0, name="a"), record(0.5, 2.0, name="b"),
             record(1.5, 4.0, name="b"), record(1.5, 3.0, name="a")]  # fmt: skip
    scores, _ = scores_by_temperature(lines)
    assert [s[0] for s in scores[0.5]] < [s[0] for s in scores[1.5]]
    assert scores[1.5][0] < scores[1.5][1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pick_at": 5}, "pick_at is 5, allowed is 1 to samples 4"),
        ({"temperatures": ()}, "temperatures is empty, allowed are different ones"),
        ({"temperatures": (1.0, 1.0)}, "temperatures is 1.0 1.0, allowed are different ones"),
        ({"temperatures": (0.0,)}, "temperatures is 0.0, allowed is above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        changed(config, **changes)


def test_the_command_prints_its_pick(config, capsys):
    flags = {name: value for name, value in vars(config).items() if value is not None}
    file = config.out.with_name("config.json")
    file.write_text(json.dumps(flags, default=str))
    main(["--config", str(file)])
    assert "picked " in capsys.readouterr().out
