"""The figures of a round's stages as tables, from what the stages log and leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotation_app.round_figures import sentences, stage_groups, tables
from annotation_app.tables import Column, in_figures
from rlhf_loop.config import TemperatureConfig
from rlhf_loop.measures.paired_figures import compare
from rlhf_loop.round import STAGES
from tests.annotation_app import played


def named(stage: str, *given: object) -> dict:
    return {table.name: table for table in tables(stage_groups(stage, *given))}


def test_it_works():
    found = named("ppo", played.ppo_lines(20), played.PPO_RESULT)
    deciding = found["deciding"]
    assert [c.name for c in deciding.columns] == [
        "Iteration", "Helpfulness", "Safety, low score", "Safety, tagged prompt",
    ]  # fmt: skip
    assert all(sum(row[1:]) == pytest.approx(1) for row in deciding.rows)
    assert {trace["stackgroup"] for trace in deciding.figure["data"]} == {"shares"}
    assert len(deciding.rows) == 20
    assert [row[0] for row in found["validation"].rows] == [0, 5, 10, 15, 20]
    assert {"kl", "clipped", "whitening", "length", "truncated", "value-error",
            "explained-variance", "ratio-error", "scores"} <= set(found)  # fmt: skip


def traces(table) -> dict:
    return {trace["name"]: trace for trace in table.figure["data"]}


def test_the_budget_and_the_policy_that_was_kept_are_marked():
    found = named("ppo", played.ppo_lines(20), played.PPO_RESULT, {"kl_budget": 4.0})
    budget, kept = traces(found["kl"])["budget"], traces(found["validation"])["kept"]
    assert (budget["x"], budget["y"]) == ([0, 20], [4.0, 4.0])
    assert kept["x"] == [15, 15]
    without = named("ppo", played.ppo_lines(20), None, {"kl_budget": None})
    assert "budget" not in traces(without["kl"])
    assert "kept" not in traces(without["validation"])


def test_a_line_that_was_measured_now_and_then_is_not_smoothed():
    found = named("ppo", played.ppo_lines(20))
    for name, values in {"kl": [0, 1.5, 3, 4.5, 6], "truncated": [0, 0.05, 0.1, 0.15, 0.2]}.items():
        (held_out,) = (
            it for it in found[name].figure["data"] if it["name"].startswith("held-out prompts")
        )
        assert held_out["y"] == pytest.approx(values)


def test_what_was_not_logged_is_left_out():
    """Advantages without values log none of them; older runs had other names."""
    lines = [
        {name: value for name, value in line.items() if "/val/" not in name and "by_" not in name}
        for line in played.ppo_lines(5)
    ]
    found = named("ppo", lines)
    assert not {"value-error", "explained-variance", "deciding"} & set(found)
    assert [column.name for column in found["clipped"].columns] == ["Iteration", "Policy"]
    assert found["clipped"].figure["layout"]["showlegend"] is False


@pytest.mark.parametrize("lines", [[], [{"step": 1, "objective/scores": None, "lr": "fast"}]])
@pytest.mark.parametrize("stage", STAGES)
def test_nothing_to_show_is_no_error(stage, lines):
    assert tables(stage_groups(stage, lines)) == []
    assert tables(stage_groups(stage, lines, {"attempt": 1})) == []
    assert sentences(stage, None) == []
    assert isinstance(sentences(stage, {"attempt": 1}), list)


def test_a_stage_that_others_add_has_a_page_without_figures():
    assert stage_groups("polish", played.ppo_lines(3), {"model": "model"}) == []
    assert sentences("polish", {"model": "model"}) == []


def test_every_number_has_the_same_minus_sign():
    assert Column("Score").shown(-1.25) == in_figures(-1.25) == "−1.25"
    assert Column("Gain", "share").shown(-0.5) == "−50.0\u00a0%"
    assert in_figures(-1e-7, "+.3g") == "−1e−07"
    assert Column("Round").shown(3) == "3"


# --- rejection sampling and the sweep ------------------------------------------------------------


def test_best_of_n_and_where_the_selected_come_from():
    found = named("rejection", played.rejection_lines(), played.REJECTION_RESULT)
    assert found["best-of"].rows == [(1, -0.3), (2, 1.1), (4, 1.9), (8, 2.4)]
    best, selected = found["best-of"].figure["data"]
    assert (best["x"], selected["y"]) == ([1, 2, 4, 8], [2.5, 2.5])
    assert [row[1] for row in found["selected"].rows] == [86, 12]
    assert found["selected"].rows[1][2] == pytest.approx(12 / 98)
    assert [row[0] for row in found["loss"].rows] == [4, 5, 6, 7, 8]
    told = " ".join(sentences("rejection", played.REJECTION_RESULT))
    assert "800 answers to 100 prompts were drawn at temperature 1.2; 98 were selected." in told
    assert "Fine-tuned on 120 answers, 22 of them from files of answers." in told


@pytest.mark.parametrize(
    ("stage", "result", "sentence"),
    [
        ("rejection", played.REJECTION_RESULT | {"too_long": 1, "held_out": 2},
         "22 of them from files of answers; 1 were too long and left out; 2 dialogues were left "
         "out because no model may learn from their prompts."),
        ("sft", {"rows": 8, "too_long": 0, "held_out": 2},
         "Trained on 8 answers; 2 dialogues were left out because no model may learn from their "
         "prompts."),
        ("dpo", {"pairs": 8, "too_long": 3, "held_out": 2},
         "Trained on 8 pairs; 3 were too long and left out; 2 pairs were left out because no model "
         "may learn from their prompts."),
    ],
)  # fmt: skip
def test_what_was_not_learnt_is_said(stage, result, sentence):
    assert sentence in " ".join(sentences(stage, result))


@pytest.fixture(scope="module")
def swept():
    """What the sweep leaves of 12 prompts and four answers at three temperatures."""
    import random

    from rlhf_loop.temperature import picked

    draw = random.Random(1)
    scores = {
        t: [[min(1, max(0, draw.gauss(m, 0.2))) for _ in range(4)] for _ in range(12)]
        for t, m in ((0.6, 0.2), (1.0, 0.5), (1.4, 0.48))
    }
    config = TemperatureConfig(
        prompts=Path("p"), policy=Path("p"), helpfulness=Path("h"), safety=Path("s"),
        out=Path("o"), samples=4,
    )  # fmt: skip
    return picked(scores, config) | {"unusable": {"0.6": 0.0, "1.0": 0.1, "1.4": 0.25}}


def test_the_sweep_with_its_intervals_and_the_pick(swept):
    table = named("temperature", [], swept)["sweep"]
    assert [(row[0], row[1]) for row in table.rows] == [
        (t, n) for t in (0.6, 1.0, 1.4) for n in (1, 2, 4)
    ]
    picked = [row for row in table.rows if row[-1] == "picked"]
    assert {row[0] for row in picked} == {swept["temperature"]}
    of_4 = next(row for row in swept["curve"] if row["temperature"] == 1.4)["max"]["4"]
    assert table.rows[-1][2:5] == (of_4["mean"], of_4["low"], of_4["high"])
    assert table.rows[-1][-2] == 0.25
    drawn = traces(table)
    assert drawn["max@4"]["error_y"]["array"][2] == pytest.approx(of_4["high"] - of_4["mean"])
    assert "error_y" not in drawn["max@1"]
    assert set(drawn["picked"]["x"]) == {swept["temperature"]}
    assert drawn["median@4"]["line"]["dash"] == "dot"


def test_the_sweep_says_what_it_cannot_tell_apart(swept):
    told = sentences("temperature", swept)
    assert told[0] == f"Picked {swept['temperature']:g}: the highest mean of max@4."
    assert "cannot be told from it on these prompts." in told[1]
    assert "0.6" not in told[1]


def test_a_sweep_on_its_way_shows_what_it_has_drawn():
    lines = [
        {"step": n, "temperature": t, "objective/scores": s, "candidates/best_scores": s + 2}
        for n, (t, s) in enumerate([(0.6, 1.0), (0.6, 2.0), (0.8, 3.0)], start=1)
    ]
    (group,) = stage_groups("temperature", lines)
    assert group.are_curves
    assert group.tables[0].rows == [(0.6, 2, 1.5, 3.5), (0.8, 1, 3.0, 5.0)]


# --- what builds data, and how long instructions last --------------------------------------------


def test_the_dialogues_that_were_built():
    found = named("ghost_attention", *played.BUILT["ghost_attention"])
    assert found["outcome"].rows == [
        ("to learn from", 44, 44 / 64),
        ("left out: an answer was cut, empty or without room", 7, 7 / 64),
        ("left out: the last answer does not obey", 13, 13 / 64),
    ]
    assert found["turns"].rows == [(2, 20), (3, 14), (6, 10)]
    assert found["values"].rows[1] == ("language", 3, "French, German, Dutch")
    assert found["kept"].rows == [(1, 0.65), (2, 0.7)]
    assert sentences("ghost_attention", played.GHOST_RESULT) == [
        "44 of 64 dialogues can be learnt from."
    ]


def test_what_the_gate_kept_and_refused():
    found = named("context_distillation", *played.BUILT["context_distillation"])
    assert [row[:2] for row in found["outcome"].rows] == [
        ("kept", 25), ("refused by the gate", 11), ("cut or empty", 4),
    ]  # fmt: skip
    assert found["safety"].rows[0] == ("plain", 0.41, 0.44)
    assert found["safety"].rows[-1] == ("kept ones alone", 0.74, None)
    assert found["gain"].rows[0] == ("0 to 0.2", 14, 0.31, -0.02, 0.6, 12)
    drawn = found["gain"].figure["data"][0]
    assert (drawn["y"][-1], drawn["x"][-1]) == ("0 to 0.2", 0.31)
    assert "0.8 to 1" not in drawn["y"]  # no prompt, no point
    assert found["kept"].rows == [(1, 0.55), (2, 0.6)]
    assert sentences("context_distillation", played.DISTILLED_RESULT) == [
        "25 of 40 distilled answers were kept; the gate refused 11, and 4 were cut or empty.",
        "Median safety 0.410 → 0.710.",
    ]


def test_the_share_that_still_obeys_by_turn():
    found = named("instruction_keeping", *played.BUILT["instruction_keeping"])
    table = found["keeping"]
    assert [row[:3] for row in table.rows] == [(2, 0.9, 0.94), (4, 0.3, 0.82), (20, 0.02, 0.66)]
    assert found["change"].rows[-1] == pytest.approx((20, 0.64, 0.54, 0.74, 0.004))
    assert found["ended"].rows == [(20, 9, 6)]
    drawn = traces(table)
    assert (drawn["before"]["x"], drawn["before"]["y"]) == ([2, 4, 20], [0.9, 0.3, 0.02])
    assert drawn["after"]["error_y"]["array"] == pytest.approx([0.05] * 3)
    (told,) = sentences("instruction_keeping", played.KEEPING_RESULT)
    assert told.replace("\u00a0", " ") == (
        "66.0 % of the dialogues still obey at turn 20; with the round's first model 2.0 %."
    )


def test_a_model_alone_is_compared_with_none():
    turns = {"2": {"share": 0.5, "low": 0.2, "high": 0.8}}
    alone = {"dialogues": 4, "turns": turns, "cut_short": {"after": {"2": 1}}}
    found = named("instruction_keeping", [], alone)
    assert set(traces(found["keeping"])) == {"after"}
    assert found["keeping"].rows == [(2, None, 0.5, 0.2, 0.8)]
    assert "change" not in found
    assert found["ended"].rows == [(2, None, 1)]
    (told,) = sentences("instruction_keeping", alone)
    assert told.endswith("of the dialogues still obey at turn 2.")


# --- the evaluation ------------------------------------------------------------------------------


def result(**more: object) -> dict:
    prompts = [played.prompt(n) for n in range(12)]
    old = [played.answer("Old.", n / 12, refused=n < 6) for n in range(12)]
    new = [played.answer("New.", n / 12 + 0.5, refused=n < 3) for n in range(12)]
    return {**compare(prompts, old, new), **more}


def test_before_and_after_in_every_group_of_prompts():
    found = named("evaluate", [], result())
    names = [row[0] for row in found["scores"].rows]
    assert names[:2] == ["helpfulness, all prompts", "helpfulness, helpfulness prompts"]
    assert "safety, borderline prompts" in names
    row = next(r for r in found["differences"].rows if r[0] == "combined, all prompts")
    assert row[1] == pytest.approx(0.5)
    assert (row[4], row[5]) == (1.0, 12)
    refused = found["refusals"].rows[0]
    assert refused[:4] == ("all prompts", 0.5, 0.25, -0.25)


def test_what_else_was_measured():
    figure = {"before": 0.5, "after": 0.4, "difference": -0.1, "low": -0.2, "high": 0.0}
    judged = {"wins": 5, "ties": 2, "losses": 3, "unclear": 1}
    judged |= {"win_rate": 0.6, "low": 0.4, "high": 0.8}
    found = named(
        "evaluate",
        [],
        result(
            self_bleu={**figure, "prompts": 4, "samples": 10},
            judge={"safety": {**judged, "count": 10}},
            tasks={"facts": {"count": 160, "acc": {**figure, "p_value": 0.03}, "acc_norm": None}},
        ),
    )
    assert found["judge"].rows == [("safety", 5, 2, 3, 1, 0.6, 0.4, 0.8)]
    assert found["tasks"].rows == [("facts, acc", 0.5, 0.4, -0.1, -0.2, 0.0, 0.03, 160)]
    assert found["diversity"].rows[0][1:3] == (0.5, 0.4)
    assert found["lengths"].rows[0][:3] == ("all prompts", 12, 12)
    assert {"judge", "tasks", "diversity"} & set(named("evaluate", [], result())) == set()


def test_a_single_prompt_has_no_interval_and_no_point():
    alone = compare([played.prompt(0)], [played.answer("a", 1.0)], [played.answer("b", 2.0)])
    found = named("evaluate", [], alone)
    assert found["differences"].rows[0][1:4] == (1.0, None, None)
    assert found["differences"].figure["data"][0]["x"] == []


# --- in words ------------------------------------------------------------------------------------


def test_why_ppo_ended():
    told = sentences("ppo", played.PPO_RESULT)
    assert told[0].startswith("Ended after 20 iterations by early stopping: validation")
    assert told[1] == "The policy kept is that of iteration 15."
    over = sentences("ppo", {**played.PPO_RESULT, "stopped_by": "kl_budget", "best_iteration": 0})
    assert "beyond the divergence budget" in over[0]
    assert over[1] == "The policy kept is the one it started from."
    assert sentences("ppo", {"iterations": 3}) == ["Ended after 3 iterations."]


def test_a_long_series_is_shown_in_part_and_kept_whole():
    lines = played.ppo_lines(400)
    kl = named("ppo", lines)["kl"]
    assert len(kl.rows) == 401
    assert len(kl.few_rows) <= 40
    assert kl.few_rows[-1][0] == "400"
    assert len(kl.csv().content.decode().splitlines()) == 402
