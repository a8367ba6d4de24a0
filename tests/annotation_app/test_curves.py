"""Curves and pace of a run, from what it has logged."""

from __future__ import annotations

from datetime import timedelta

from annotation_app.curves import curves, pace, table, window
from annotation_app.figures import MOST_POINTS

KIND = "reward_training"


def logged(count: int, total: int = 100) -> list[dict]:
    return [
        {"step": n, "total": total, "time": 1000.0 + 2 * n, "pairs": 16, "ranking_loss": float(n),
         "auxiliary_loss": 0.0, "accuracy": 0.5, "learning_rate": 1e-5, "gradient_norm": 1.0}
        for n in range(1, count + 1)
    ]  # fmt: skip


def test_it_works():
    loss, accuracy, *_ = curves(KIND, logged(10))
    raw, mean = loss.figure["data"]
    assert (raw["x"], raw["y"]) == (list(range(1, 11)), [float(n) for n in range(1, 11)])
    assert mean["y"][0] == 1
    assert mean["y"][-1] == 8  # of 6 … 10
    assert loss.numbers == [("ranking", 10, 8)]
    assert accuracy.figure["layout"]["yaxis"]["range"] == [0, 1]


def test_long_runs_are_thinned_and_keep_their_newest_step():
    loss = curves(KIND, logged(5_003))[0]
    raw, mean = loss.figure["data"]
    assert len(raw["x"]) <= MOST_POINTS
    assert raw["x"][-1] == mean["x"][-1] == 5_003
    assert mean["y"][-1] == sum(range(5_003 - window(5_003) + 1, 5_004)) / window(5_003)


def test_the_first_steps_are_seen_one_by_one():
    """A line of one point is none, and an axis of two steps has no tenths of them."""
    first, few, many = (curves(KIND, logged(count))[0].figure for count in (1, 2, 50))
    assert [figure["data"][1]["mode"] for figure in (first, few)] == ["markers", "lines"]
    assert [figure["layout"]["xaxis"].get("dtick") for figure in (few, many)] == [1, None]


def test_a_penalty_that_is_off_is_not_drawn_beside_the_loss():
    """Without its weight it would dwarf it."""
    metrics = [{**line, "centring_loss": 40.0} for line in logged(3)]
    assert "centring" not in {shown.id for shown in curves(KIND, metrics)}
    assert "centring" in {shown.id for shown in curves(KIND, metrics, {"centring": 0.01})}


def test_nothing_logged_yet():
    assert [shown.figure["data"] for shown in curves(KIND, [])] == [[]] * 4
    assert pace([]) == (None, None)
    assert table([]) == ([], [])


def test_the_pace_is_that_of_the_recent_steps():
    assert pace(logged(30)) == (8.0, timedelta(seconds=140))
    paused = [dict(line) for line in logged(30)]
    for line in paused[15:]:
        line["time"] += 86_400  # a night between two attempts
    assert pace(paused) == (8.0, timedelta(seconds=140))


def test_a_clock_that_stands_still_gives_no_pace():
    assert pace([{**line, "time": 1.0} for line in logged(3)]) == (None, None)


def test_a_flag_is_no_figure():
    """JSON's true is a number to Python."""
    lines = [*logged(1), {**logged(2)[1], "ranking_loss": True}]
    assert curves(KIND, lines)[0].figure["data"][0]["y"] == [1.0]


def test_columns_are_all_that_was_ever_logged():
    assert table([{"step": 1}, {"step": 2, "loss": 3}]) == (["step", "loss"], [[1, ""], [2, 3]])
