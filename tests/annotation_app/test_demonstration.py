"""Demonstrations as rows: written once, decided once, by someone else."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction

from annotation_app.models import Annotation, Demonstration, Prompt
from annotation_app.models.refusals import NotAssigned, WrongState
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db


@pytest.fixture
def response(bob):
    """One that Bob has judged."""
    annotation = Annotation.objects.lease_next(bob, open_batch())
    annotation.record(choice="a", strength="better")
    return annotation.comparison.response_a


def test_it_works(bob, rita):
    written = Demonstration.write(bob, "safety", "How?", "So.", "unqualified_advice", "logic")
    assert (written.state, written.corrects) == ("written", None)
    assert written.prompt.messages == [{"role": "user", "content": "How?"}]
    assert (written.prompt.is_safety, written.prompt.attack_vector) == (True, "logic")
    written.approve(rita)
    assert (written.state, written.decided_by) == ("approved", rita)
    assert written.decided_at is not None


def test_the_same_text_is_stored_once(bob, charlie):
    first = Demonstration.write(bob, "helpfulness", "How?", "So.")
    assert Demonstration.write(bob, "helpfulness", "How?", "So.") == first
    assert Demonstration.write(charlie, "helpfulness", "How?", "So.") != first
    assert Demonstration.write(bob, "helpfulness", "How?", "Or so.") != first
    assert Demonstration.write(bob, "helpfulness", "How", "?So.") != first
    assert Demonstration.objects.count() == Prompt.objects.count() == 4


def test_a_race_leaves_one_row_and_no_loose_prompt(bob, monkeypatch):
    """Both have seen nothing stored yet; the constraint decides."""
    first = Demonstration.write(bob, "helpfulness", "How?", "So.")
    monkeypatch.setattr(Demonstration, "_written", lambda author, digest: None)
    assert Demonstration.write(bob, "helpfulness", "How?", "So.") == first
    assert Prompt.objects.count() == 1


def test_one_better_answer_stands_per_response_and_author(bob, charlie, rita, response):
    first = Demonstration.correct(bob, "helpfulness", response, "Three years.")
    assert first.prompt == response.prompt
    assert Demonstration.correct(bob, "helpfulness", response, "Three years.") == first
    with pytest.raises(WrongState, match="it stands"):
        Demonstration.correct(bob, "helpfulness", response, "Four years.")
    Demonstration.correct(charlie, "helpfulness", response, "Four years.")
    first.reject(rita, "It is two years.")
    with pytest.raises(WrongState, match=r"was rejected: It is two years\."):
        Demonstration.correct(bob, "helpfulness", response, "Three years.")
    assert Demonstration.correct(bob, "helpfulness", response, "Two years, yes.").state == "written"


def test_an_edit_is_a_row_of_its_own(bob, rita, response):
    written = Demonstration.correct(bob, "helpfulness", response, "Three yers.")
    edited = written.approve_edited(rita, "Three years.")
    assert (edited.text, edited.state, edited.author) == ("Three years.", "approved", bob)
    assert (edited.corrects, edited.prompt, edited.decided_by) == (response, response.prompt, rita)
    written.refresh_from_db()
    assert (written.text, written.state) == ("Three yers.", "superseded")
    assert written.approve_edited(rita, "Three years.") == edited
    with pytest.raises(WrongState, match="another edit"):
        written.approve_edited(rita, "Four years.")
    with pytest.raises(WrongState, match="it stands"):
        Demonstration.correct(bob, "helpfulness", response, "Five years.")
    assert Demonstration.correct(bob, "helpfulness", response, "Three yers.") == written
    assert Demonstration.objects.count() == 2


def test_nobody_decides_on_their_own(rita):
    written = Demonstration.write(rita, "helpfulness", "How?", "So.")
    for decide in (
        lambda: written.approve(rita),
        lambda: written.reject(rita, "No."),
        lambda: written.approve_edited(rita, "Thus."),
    ):
        with pytest.raises(NotAssigned, match="someone else decides"):
            decide()
    assert list(Demonstration.objects.values_list("state", flat=True)) == ["written"]
    assert list(Demonstration.objects.for_reviewer(rita)) == []


def test_the_first_decision_stands(bob, rita, alice):
    written = Demonstration.write(bob, "helpfulness", "How?", "So.")
    written.approve(rita)
    written.approve(rita)
    for decide in (
        lambda: written.approve(alice),
        lambda: written.reject(rita, "No."),
        lambda: written.approve_edited(alice, "Thus."),
    ):
        with pytest.raises(WrongState, match="this one is approved"):
            decide()
    assert Demonstration.objects.count() == 1


@pytest.mark.parametrize(
    "values",
    [
        {"state": "liked"},
        {"state": "approved"},
        {"criterion": "beauty"},
        {"state": "rejected", "own": True, "reason": "Mine."},
    ],
)
def test_the_database_refuses_what_the_rows_must_never_say(bob, values):
    written = Demonstration.write(bob, "helpfulness", "How?", "So.")
    if values.pop("own", False):
        values |= {"decided_by": bob, "decided_at": written.created_at}
    with pytest.raises(IntegrityError), transaction.atomic():
        Demonstration.objects.filter(pk=written.pk).update(**values)
