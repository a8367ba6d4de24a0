"""Promotions: which reward model is in force, who put it there, and the way back."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction

from annotation_app.models import Checkpoint, Promotion
from annotation_app.models.refusals import WrongState
from tests.annotation_app.rows import released_chat_model

pytestmark = pytest.mark.django_db


def reward(name: str, criterion: str = "safety") -> Checkpoint:
    kind = f"{criterion}_reward"
    return Checkpoint.objects.create(kind=kind, name=name, line="tiny", storage_key=name, sha256="")


def in_force(criterion: str = "safety") -> str:
    found = Checkpoint.objects.promoted(criterion)
    return found.name if found else ""


def test_it_works(alice):
    first, second = reward("first"), reward("second")
    assert in_force() == ""
    Promotion.promote(second, alice)
    Promotion.promote(first, alice)
    assert (in_force(), in_force("helpfulness")) == ("first", "")
    newest = Promotion.objects.in_force("safety")
    assert (newest.number, newest.promoted_by, newest.is_roll_back) == (2, alice, False)


def test_a_chat_model_cannot_be_promoted():
    with pytest.raises(WrongState, match="only reward models"):
        Promotion.promote(released_chat_model().checkpoint)


def test_what_is_in_force_is_not_promoted_again():
    only = reward("only")
    Promotion.promote(only)
    with pytest.raises(WrongState, match="only is in force already"):
        Promotion.promote(only)
    assert Promotion.objects.count() == 1


def test_rolling_back_goes_back_step_by_step(alice):
    for name in ("first", "second", "third"):
        Promotion.promote(reward(name))
    back = Promotion.roll_back("safety", alice)
    assert (in_force(), back.is_roll_back, back.promoted_by) == ("second", True, alice)
    Promotion.roll_back("safety")
    assert in_force() == "first"
    with pytest.raises(WrongState, match="No safety reward model was in force before"):
        Promotion.roll_back("safety")
    assert Promotion.objects.count() == 5


def test_what_was_rolled_back_can_be_promoted_again():
    first, second = reward("first"), reward("second")
    Promotion.promote(first)
    Promotion.promote(second)
    Promotion.roll_back("safety")
    Promotion.promote(second)
    assert in_force() == "second"
    Promotion.roll_back("safety")
    assert in_force() == "first"


def test_the_criteria_know_nothing_of_each_other():
    Promotion.promote(reward("safe"))
    Promotion.promote(reward("helpful", "helpfulness"))
    with pytest.raises(WrongState):
        Promotion.roll_back("helpfulness")
    assert (in_force("safety"), in_force("helpfulness")) == ("safe", "helpful")


def test_a_decision_on_what_is_in_force_no_more_is_refused():
    first, second, third = (reward(name) for name in ("first", "second", "third"))
    Promotion.promote(first, seen=0)
    Promotion.promote(second, seen=1)
    with pytest.raises(WrongState, match="second came into force meanwhile"):
        Promotion.promote(third, seen=1)
    with pytest.raises(WrongState, match="second came into force meanwhile"):
        Promotion.roll_back("safety", seen=1)
    assert in_force() == "second"


def test_of_two_at_once_one_is_refused():
    first, second, third = (reward(name) for name in ("first", "second", "third"))
    Promotion.promote(first)
    seen = Promotion.objects.in_force("safety")
    Promotion.promote(second)  # between the other one's look and its write
    with pytest.raises(WrongState, match="meanwhile"):
        Promotion._follow(seen, None, third, None, previous=seen)
    assert in_force() == "second"


def test_the_database_keeps_the_numbers_apart():
    only = reward("only")
    Promotion.promote(only)
    with pytest.raises(IntegrityError), transaction.atomic():
        Promotion.objects.create(criterion="safety", number=1, checkpoint=only)
