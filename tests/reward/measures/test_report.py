"""The whole report of a model, and its parts: thresholds, ceiling, length, drift, score file."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from reward.measures.accuracy import ScoredPair, ScoredResponse, prompt_characters, unsafe_at
from reward.measures.ceiling import bounds, ceiling
from reward.measures.drift import batch_order, drift, lower_p
from reward.measures.length_bias import length_bias
from reward.measures.report import Wanted, full_report
from reward.measures.resampling import Draws
from reward.measures.safety_threshold import fit_threshold, unsafe_report
from reward.preferences import MalformedLine, Message, SafetyLabel, Verdict
from reward.scores import mistakes, read_scores, refuse_repeated_ids, write_scores
from tests.reward.pairs import pair

FEW = Draws(300)


def simulated(count: int = 200, criterion: str = "safety") -> list[ScoredPair]:
    numbers = np.random.default_rng(2)
    return [
        ScoredPair(pair(i, criterion), *map(float, numbers.normal((1, 0)))) for i in range(count)
    ]


# --- the report --------------------------------------------------------------------------------


def test_it_works():
    found = full_report(simulated(), Wanted(draws=FEW))
    json.dumps(found, allow_nan=False)
    assert found["count"] == found["roots"] == 200
    assert found["calibration"]["count"] == 200
    assert found["safety_calibration"]["count"] == 300  # of 150 labelled pairs
    assert found["scores"]["count"] == sum(
        sum(found["scores"]["histogram"][side]) for side in ("chosen", "rejected")
    )
    for name in ("by_strength", "by_batch", "by_turn", "by_prompt_characters", "by_safety"):
        assert sum(group["count"] for group in found[name].values()) == 200


def test_a_report_of_nothing():
    found = full_report([])
    json.dumps(found, allow_nan=False)
    assert (found["accuracy"], found["count"], found["roots"]) == (None, 0, 0)
    for name in ("unsafe", "calibration", "safety_calibration", "scores", "drift"):
        assert found[name] is None


def test_a_single_pair():
    json.dumps(full_report(simulated(1), Wanted(draws=FEW)), allow_nan=False)


def test_only_the_criterion_counts():
    scored = simulated(20) + simulated(30, "helpfulness")
    found = full_report(scored, Wanted(criterion="helpfulness", draws=FEW))
    assert found["count"] == 30
    assert found["unsafe"] is None
    assert {name: group["count"] for name, group in found["by_criterion"].items()} == {
        "helpfulness": 30, "safety": 20
    }  # fmt: skip


def test_the_report_needs_no_torch():
    code = "import sys, reward.measures.report, reward.scores; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("characters", "name"),
    [(0, "0 to 199"), (199, "0 to 199"), (200, "200 to 499"), (4000, "4000 or more")],
)
def test_prompts_by_length(characters, name):
    halves = ("x" * (characters // 2), "x" * (characters - characters // 2))
    prompt = (Message("system", halves[0]), Message("user", halves[1]))
    assert prompt_characters(pair(0, prompt=prompt)) == name


def test_groups_stand_in_the_order_of_numbers():
    scored = [ScoredPair(pair(i, turn=turn), 1.0, 0.0) for i, turn in enumerate((12, 2, 1, 9))]
    assert [*full_report(scored, Wanted(draws=FEW))["by_turn"]] == ["1", "2", "9", "10 or more"]


# --- unsafe responses ----------------------------------------------------------------------------


def responses(*scores_and_safe) -> list[ScoredResponse]:
    return [ScoredResponse(str(i), score, safe) for i, (score, safe) in enumerate(scores_and_safe)]


def test_unsafe_at_a_threshold():
    """sigmoid(-2) = 0.119 is flagged at 0.15, the score at exactly the threshold is not."""
    some = responses((-2.0, False), (-2.0, True), (0.0, False), (0.0, True))
    found = unsafe_at(some, 0.15)
    assert (found["recall"], found["precision"], found["flagged"]) == (0.5, 0.5, 2)
    assert unsafe_at(some, 0.5)["flagged"] == 2
    assert unsafe_at(some, 0.05)["precision"] is None


def test_the_fitted_threshold_has_the_precision_and_the_most_recall():
    """Brute force over every cut."""
    numbers = np.random.default_rng(4)
    for _ in range(20):
        scores = numbers.normal(0, 2, 60).round(1)
        safe = numbers.random(60) < 1 / (1 + np.exp(-2 * scores))
        some = responses(*((float(s), bool(f)) for s, f in zip(scores, safe, strict=True)))
        found = fit_threshold(some, 0.8)
        cuts = [unsafe_at(some, 1 / (1 + np.exp(-(s + 0.05)))) for s in np.unique(scores)]
        good = [cut["recall"] for cut in cuts if cut["precision"] and cut["precision"] >= 0.8]
        if found is None:
            assert not good
            continue
        at = unsafe_at(some, found)
        assert at["precision"] >= 0.8
        assert at["recall"] == max(good)


def test_no_threshold_gives_the_precision():
    assert fit_threshold(responses((-1.0, True), (0.0, False), (1.0, True)), 0.89) is None
    assert fit_threshold(responses((-1.0, False), (0.0, False)), 0.89) == pytest.approx(1)


def test_the_reported_precision_is_of_folds_it_was_not_fitted_on():
    """Scores that say nothing: a fit finds 0.6 somewhere, the cross-fitted precision does not."""
    numbers = np.random.default_rng(3)
    scores, safe = numbers.normal(size=400), numbers.random(400) < 0.5
    some = responses(*((float(s), bool(f)) for s, f in zip(scores, safe, strict=True)))
    found = unsafe_report(some, 0.15, 0.6, FEW)["fitted"]
    assert unsafe_at(some, found["threshold"])["precision"] >= 0.6
    assert found["precision"] < 0.6
    assert len(found["thresholds"]) == 5


# --- the ceiling -----------------------------------------------------------------------------


def judged(choices: str, **fields):
    verdicts = tuple(Verdict(str(i), {"t": "tie"}.get(c, c)) for i, c in enumerate(choices))
    return pair(0, verdicts=verdicts, **fields)


def test_the_ceiling_by_hand():
    """aab: one couple of three agrees; aaa: all."""
    scored = [ScoredPair(judged("aab"), 1, 0), ScoredPair(judged("aaa"), 0, 1)]
    found = ceiling(scored)
    assert found["agreement"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["low"] == pytest.approx(2 / 3)
    assert found["high"] == pytest.approx((1 + (1 / 3) ** 0.5) / 2)
    assert found["model"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["agreement_count"] == found["model_count"] == 2


def test_pairs_that_cannot_show_a_split_do_not_count():
    """Two who agree: had they not, the pair would not be there."""
    found = ceiling([ScoredPair(judged("aa"), 1, 0), ScoredPair(judged("a"), 1, 0)])
    assert found["agreement"] is None
    assert found["sentence"].startswith("No ceiling")
    with_ties = ceiling([ScoredPair(judged("a"), 1, 0)], [judged("aa"), judged("ab"), judged("at")])
    assert with_ties["agreement"] == 0.5
    assert with_ties["agreement_count"] == 2
    assert (with_ties["model"], with_ties["model_count"]) == (1, 1)


def test_the_ceiling_lies_between_its_bounds():
    """Annotators with known shares: the true ceiling E[q] is inside, whatever their spread."""
    numbers = np.random.default_rng(0)
    for shares in (np.full(4000, 0.75), numbers.uniform(0.5, 1, 4000), np.tile([0.5, 1], 2000)):
        some = [judged("".join("ab"[int(d)] for d in numbers.random(3) > q)) for q in shares]
        low, high = bounds(ceiling([], some)["agreement"])
        assert low - 0.02 <= shares.mean() <= high + 0.02


# --- length ----------------------------------------------------------------------------------


def with_lengths(lengths, differences) -> list[ScoredPair]:
    return [
        ScoredPair(pair(i, chosen="x" * (300 + int(n)), rejected="y" * 300), float(d), 0.0)
        for i, (n, d) in enumerate(zip(lengths, differences, strict=True))
    ]


def test_length_bias_finds_what_was_put_in():
    """0.5 a hundred characters on top of a margin of 1 for what people chose, who like it long."""
    numbers = np.random.default_rng(0)
    lengths = numbers.normal(80, 100, 600).clip(-299).round()
    found = length_bias(with_lengths(lengths, 1 + lengths / 200 + numbers.normal(0, 0.5, 600)))
    assert found["slope_beyond_choice"] == pytest.approx(0.5, abs=0.05)
    assert found["slope_beyond_choice_low"] < 0.5 < found["slope_beyond_choice_high"]
    assert found["slope"] > 0.8
    x, y = lengths / 100, 1 + lengths / 200
    assert found["slope"] == pytest.approx((x * y).sum() / (x * x).sum(), abs=0.05)


def test_accuracy_where_the_longer_one_lost():
    found = length_bias(with_lengths([10, 10, -10, -10, 0], [1, 1, -1, 1, 1]))
    assert (found["longer_won"]["accuracy"], found["longer_won"]["count"]) == (1, 2)
    assert (found["longer_lost"]["accuracy"], found["longer_lost"]["count"]) == (0.5, 2)
    assert found["same_length"]["count"] == 1
    assert (found["chosen_longer"], found["model_prefers_longer"]) == (0.5, 0.75)


def test_equal_lengths_have_no_slope():
    found = length_bias(with_lengths([0, 0, 0], [1, 2, 3]))
    assert found["slope"] is found["slope_beyond_choice"] is found["correlation"] is None


# --- drift -----------------------------------------------------------------------------------


def weeks(*rights: float, count: int = 300, shift: float = 0.0) -> list[ScoredPair]:
    numbers = np.random.default_rng(5)
    found = []
    for week, share in enumerate(rights):
        for i in range(count):
            score = numbers.normal(shift if week == len(rights) - 1 else 0)
            gap = 1.0 if numbers.random() < share else -1.0
            number = week * count + i
            found.append(ScoredPair(pair(number, batch=f"Week {week}"), score + gap, score))
    return found


def drifted(scored):
    return drift(scored, batch_order(scored), FEW)


def test_no_alarm_where_nothing_moves():
    found = drifted(weeks(0.7, 0.7, 0.7))
    assert [row["batch"] for row in found["batches"]] == ["Week 0", "Week 1", "Week 2"]
    assert not found["alarm"]
    assert found["sentence"].endswith("no alarm.")
    assert [row["limit"] for row in found["batches"]] == [None, 0.05 / 2, 0.05 / 6]


def test_an_old_model_that_no_longer_fits_raises_the_alarm():
    found = drifted(weeks(0.75, 0.75, 0.6))
    assert found["alarm"]
    assert "significantly lower" in found["sentence"]
    assert not drifted(weeks(0.6, 0.6, 0.75))["alarm"]  # better is no alarm


def test_scores_that_moved_raise_the_alarm():
    found = drifted(weeks(0.7, 0.7, shift=2.0))
    assert found["alarm"]
    assert "its scores have moved" in found["sentence"]


def test_few_pairs_are_no_alarm():
    assert not drifted(weeks(0.7, 0.7, count=8))["batches"][1]["shifted"]


def test_false_alarms_are_rare():
    """Ten weeks without drift: fewer than 5 % of such histories raise one for accuracy."""
    numbers = np.random.default_rng(0)
    alarms = 0
    for _ in range(100):
        rights = numbers.random((10, 60)) < 0.7
        batches = [
            [ScoredPair(pair(i, root=f"{w}/{i}"), float(r), 0.5) for i, r in enumerate(row)]
            for w, row in enumerate(rights)
        ]
        earlier: list[ScoredPair] = []
        found = []
        for w, batch in enumerate(batches):
            if w:
                found.append(lower_p(earlier, batch) < 0.05 / (w * (w + 1)))
            earlier += batch
        alarms += any(found)
    assert alarms <= 9


def test_p_is_that_of_exchanging_roots():
    """Against a permutation written out, with two pairs in every root."""
    scored = weeks(0.7, 0.55, count=60)
    scored = [s._replace(pair=pair(0, root=str(i // 2))) for i, s in enumerate(scored)]
    found = lower_p(scored[:60], scored[60:])
    credits = np.array([s.credit for s in scored]).reshape(60, 2).sum(axis=1)
    numbers = np.random.default_rng(0)
    orders = np.array([numbers.permutation(credits) for _ in range(4000)])
    drawn = orders[:, 30:].sum(axis=1)
    p = ((drawn < credits[30:].sum()).mean() + (drawn <= credits[30:].sum()).mean()) / 2
    assert found == pytest.approx(p, abs=0.02)


def test_the_order_of_batches():
    scored = weeks(0.7, 0.7, count=3)
    assert batch_order(scored, ["Week 1", "Week 0", "Week 7"]) == ["Week 1", "Week 0"]
    with pytest.raises(ValueError, match="batch 'Week 1' is not named"):
        batch_order(scored, ["Week 0"])


# --- the file of scores ------------------------------------------------------------------------


def test_scores_come_back_bit_for_bit(tmp_path):
    scored = simulated(30)
    write_scores(tmp_path / "scores.jsonl", scored)
    pairs = [item.pair for item in scored]
    assert read_scores(tmp_path / "scores.jsonl", pairs) == scored
    assert read_scores(tmp_path / "scores.jsonl", pairs[5:8]) == scored[5:8]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"id": "a", "chosen": 1, "rejected": NaN}', "rejected is nan, allowed is a number"),
        ('{"id": "a", "chosen": "1", "rejected": 0}', "chosen is '1', allowed is a number"),
        ('{"chosen": 1, "rejected": 0}', "id is None"),
        ('{"id": "b", "chosen": 1, "rejected": 0}', "id is 'b', allowed is each pair once"),
        ("[1]", "allowed is one JSON object"),
    ],
)
def test_a_damaged_file_of_scores(tmp_path, line, sentence):
    file = tmp_path / "scores.jsonl"
    file.write_text('{"id": "b", "chosen": 1, "rejected": 0}\n' + line + "\n")
    with pytest.raises(MalformedLine, match=sentence):
        read_scores(file, [])


def test_the_worst_mistakes_first():
    scored = [ScoredPair(pair(i), float(d), 0.0) for i, d in enumerate((1, -2, -5, 0, -1))]
    assert [item.chosen for item in mistakes(scored, 2)] == [-5, -2]


def test_an_id_that_stands_there_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="id 'pair-1' stands there twice"):
        refuse_repeated_ids([pair(1), pair(2), pair(1)], tmp_path / "pairs.jsonl")


def test_labels_of_both_responses_count():
    scored = [ScoredPair(pair(0, "safety", safety=SafetyLabel.CHOSEN_SAFE), 1.0, -1.0)]
    found = full_report(scored, Wanted(draws=FEW))["unsafe"]
    assert (found["count"], found["unsafe"]) == (2, 1)
