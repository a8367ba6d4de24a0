"""Two answers on the screen at one pace, and what never gets there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation_app.pacing import CHARACTERS_PER_TICK, Pace, Pane


def pane(text: str = "", reason: str = "", names: tuple[str, ...] = ()) -> Pane:
    made = Pane(names)
    made.hear(text)
    made.end(reason)
    return made


def test_it_works():
    left, right = pane("abc" * 20, "stop"), pane("xyz" * 20, "stop")
    pace = Pace()
    texts = [pace.release(left, right) for _ in range(3)]
    assert ["".join(side) for side in zip(*texts, strict=True)] == ["abc" * 20, "xyz" * 20]
    assert {len(text) for pair in texts for text in pair} == {CHARACTERS_PER_TICK}
    assert left.is_over
    assert right.is_over


def test_nothing_is_shown_before_both_have_begun():
    quick, slow = pane("a long beginning"), pane()
    assert Pace().release(quick, slow) == ("", "")


def test_one_that_waits_makes_the_other_wait():
    quick, slow = pane("x" * 500), pane("y" * 8)
    pace = Pace()
    assert [len(text) for text in pace.release(quick, slow)] == [7, 7]
    assert pace.release(quick, slow) == ("", "")
    slow.hear("y" * 3)
    assert [len(text) for text in pace.release(quick, slow)] == [3, 3]


def test_after_the_end_of_the_slower_one_the_other_does_not_speed_up():
    quick, slow = pane("x" * 500, "stop"), pane()
    pace = Pace()
    for _ in range(10):
        slow.hear("y" * 8)
        pace.release(quick, slow)
    slow.end("stop")
    while not slow.is_over:
        pace.release(quick, slow)
    assert len(pace.release(quick, slow)[0]) <= 9


def test_a_short_answer_does_not_slow_the_other_one_down():
    short, long = pane("Yes.", "stop"), pane("x" * 500, "stop")
    pace = Pace()
    for _ in range(3):
        assert len(pace.release(short, long)[1]) == CHARACTERS_PER_TICK


@pytest.mark.parametrize(
    ("text", "reason", "fault"),
    [
        ("Yes.", "stop", ""),
        ("Yes.", "", ""),
        ("", "", ""),
        ("", "stop", "an empty answer"),
        (" \n", "stop", "an empty answer"),
        ("Yes and", "length", "an answer that is cut off"),
        ("I am Starter-A.", "", "an answer that names the model"),
        ("I am starter-a", "stop", "an answer that names the model"),
        ("I am starter-a", "", ""),  # it may go on as starter-abc
        ("starter-abc and restarter-a", "stop", ""),
    ],
)
def test_faults(text, reason, fault):
    assert pane(text, reason, ("starter-a", "")).fault == fault


def test_what_stands_before_a_name_may_be_shown_and_no_more():
    named = pane("I am called starter-a, and I", names=("starter-a",))
    assert named.show(100) == "I am called "


PIECES = st.lists(
    st.sampled_from(["star", "ter", "-a", "STARTER-A", " ", "b", ".", "starter", "-"]), max_size=30
)


@given(PIECES, PIECES, st.data())
def test_whatever_comes_steps_are_equal_and_names_stay_hidden(first, second, data):
    left, right = Pane(["starter-a"]), Pane(["starter-a"])
    pace, coming = Pace(), {id(left): list(first), id(right): list(second)}
    screen = ["", ""]
    for _ in range(80):
        for side in (left, right):
            if not coming[id(side)]:
                side.end("stop")
            elif data.draw(st.booleans()):
                side.hear(coming[id(side)].pop(0))
        texts = pace.release(left, right)
        if not (left.has_ended or right.has_ended):
            assert len(texts[0]) == len(texts[1])
        screen = [shown + text for shown, text in zip(screen, texts, strict=True)]
    for shown, side in zip(screen, (left, right), strict=True):
        assert side.text.startswith(shown)
        assert not re.search(r"(?<!\w)starter-a(?!\w)", side.text[: side.shown + 1], re.IGNORECASE)
