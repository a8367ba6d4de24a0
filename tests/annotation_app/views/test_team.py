"""/work and /team: one's own figures, everyone's, and agreement after undoing the side swap."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app import team
from annotation_app.models import Annotation, Person
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db


def judge(person, batch, choices, strength="better"):
    """Lease and record, preferring the response of the next letter each time."""
    for choice in choices:
        annotation = Annotation.objects.lease_next(person, batch)
        annotation.record(choice=choice, strength=strength, active_seconds=30.0)


def test_agreement_is_of_responses_not_of_sides(bob, charlie):
    batch = open_batch(overlap=2, comparisons=4)
    judge(bob, batch, "abab")
    judge(charlie, batch, "abab")
    Annotation.objects.filter(annotator=bob).update(shown_left="a")
    Annotation.objects.filter(annotator=charlie).update(shown_left="b")
    found = team.measures(team.shared_judgements(Annotation.objects.work()))
    assert found.comparisons == 4
    assert found.same_side.coefficient == found.side.coefficient == 1
    assert found.preference.coefficient == pytest.approx(1)


def test_the_eight_answers_are_one_scale():
    ratings = [
        team.Judgement(1, "", "", choice, strength).rating
        for choice, strengths in (("a", team.STRENGTHS), ("b", team.STRENGTHS[::-1]))
        for strength in strengths
    ]
    assert ratings == list(team.SCALE)


def test_ties_and_unknown_strengths_have_no_place_on_it(bob, charlie):
    batch = open_batch(overlap=2, comparisons=2)
    judge(bob, batch, "aa", strength="")
    judge(charlie, batch, "ab", strength="")
    found = team.measures(team.shared_judgements(Annotation.objects.work()))
    assert found.same_side.coefficient == 0.5
    assert str(found.preference.coefficient) == "nan"


def test_hours_count_what_was_rejected_too(bob):
    judge(bob, open_batch(comparisons=2), "ab")
    Annotation.objects.order_by("pk").first().exclude("rejected on review")
    (found,) = team.annotator_figures(Annotation.objects.all())
    assert (found.recorded, found.hours) == (1, 60 / 3600)


def test_pace(bob):
    batch = open_batch(comparisons=4)
    judge(bob, batch, "aaab")
    Annotation.objects.update(shown_left="a")
    (found,) = team.annotator_figures(Annotation.objects.all())
    assert (found.recorded, found.seconds_each, found.hours) == (4, 30, 120 / 3600)
    assert found.per_hour == pytest.approx(120)


def test_pairs_of_annotators(bob, charlie):
    batch = open_batch(overlap=2, comparisons=2)
    judge(bob, batch, "ab")
    judge(charlie, batch, "aa")
    pairs = team.measures_by_pair(team.shared_judgements(Annotation.objects.work()))
    assert pairs["bob", "charlie"].same_side.coefficient == 0.5


def test_pages(client, bob, charlie):
    batch = open_batch(overlap=2, comparisons=2)
    judge(bob, batch, "ab")
    judge(charlie, batch, "aa")
    rita = Person.objects.create_user("rita", role="reviewer")
    client.force_login(rita)
    page = client.get(reverse("team")).content.decode()
    assert "bob" in page
    assert "4 of 4" in page
    page = client.get(reverse("agreement")).content.decode()
    assert "bob and charlie" in page
    assert "0.50" in page
    assert client.get(reverse("rewards")).status_code == 403


def test_undefined_says_undefined(as_alice):
    page = as_alice.get(reverse("agreement")).content.decode()
    assert "Undefined: nothing was judged by two people yet." in page


def test_annotators_see_their_own_work_only(client, bob, charlie):
    batch = open_batch(comparisons=3)
    judge(charlie, batch, "a")
    client.force_login(bob)
    page = client.get(reverse("my_work")).content.decode()
    assert "Nothing stored yet" in page
    assert "charlie" not in page
    assert client.get(reverse("team")).status_code == 403
    judge(bob, batch, "a")
    assert "of kettle" in client.get(reverse("my_work")).content.decode()


def test_the_pages_cost_the_same_for_any_number_of_annotators(
    as_alice, django_assert_max_num_queries
):
    batch = open_batch(overlap=6, comparisons=2)
    for number in range(6):
        judge(Person.objects.create_user(f"p{number}"), batch, "ab")
    with django_assert_max_num_queries(12):
        as_alice.get(reverse("team"))
    with django_assert_max_num_queries(6):
        as_alice.get(reverse("agreement"))
