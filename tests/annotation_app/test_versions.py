"""The chat versions on the plane of helpfulness and safety."""

from __future__ import annotations

import pytest

from annotation_app.models import Round
from annotation_app.versions import version_tables
from reward.measures.accuracy import wilson_interval
from tests.annotation_app.played import begun, evaluated, played

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


def drawn(table) -> dict:
    return {trace["name"]: trace for trace in table.figure["data"]}


def test_it_works():
    first, second = played(), played()
    first.mark_released()
    second.hold()
    won, scores = version_tables(Round.objects.order_by("pk"))
    assert [row[:3] for row in won.rows] == [
        ("RLHF-V1", "Released", "starter"), ("RLHF-V2", "Held", "starter"),
    ]  # fmt: skip
    helpful = first.evaluation["helpfulness_prompts"]
    low, high = wilson_interval(helpful["helpfulness"]["win_rate"], helpful["count"])
    assert won.rows[0][3:7] == (helpful["helpfulness"]["win_rate"], low, high, 10)
    point = drawn(won)["RLHF-V1"]
    safe = first.evaluation["safety_prompts"]["safety"]
    assert (point["x"], point["y"]) == (
        [helpful["helpfulness"]["win_rate"]], [safe["win_rate"]],
    )  # fmt: skip
    assert point["marker"]["symbol"] == "circle"
    assert drawn(won)["RLHF-V2, held"]["marker"]["symbol"] == "x"
    arrow = drawn(scores)["RLHF-V1"]
    assert arrow["x"] == [helpful["helpfulness"][when] for when in ("before", "after")]
    assert arrow["y"] == [safe["before"], safe["after"]]
    assert scores.rows[0][3:5] == (first.helpfulness.name, first.safety.name)


def test_an_interval_is_that_of_the_roots():
    round_ = played()
    helpful = round_.evaluation["helpfulness_prompts"]
    helpful["roots"] = 3
    (won, _) = version_tables([round_])
    rate = helpful["helpfulness"]["win_rate"]
    assert won.rows[0][3:7] == (rate, *wilson_interval(rate, 3), helpful["count"])


def test_nothing_is_evaluated_yet():
    begun()
    assert version_tables(Round.objects.all()) == []


def test_a_version_without_safety_prompts_has_its_row_and_no_point():
    round_ = begun()
    evaluated(round_, count=1)  # a helpfulness prompt
    won, scores = version_tables([round_])
    assert won.rows[0][3] == 0  # the gain of the only prompt is negative
    assert won.rows[0][7:] == (None,) * 4
    assert (won.figure, scores.figure) == (None, None)


def test_a_round_that_was_evaluated_differently_is_left_out():
    round_ = begun()
    round_.finish({"gate": {"passes": True}, "helpfulness_prompts": None})
    assert version_tables([round_]) == []
