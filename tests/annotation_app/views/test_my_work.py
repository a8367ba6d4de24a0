"""/work: better answers that were written already, and what a reviewer's corrections leave out."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Annotation, Demonstration, Review
from tests.annotation_app.rows import open_batch
from tests.annotation_app.views.test_reviews import answered, read

pytestmark = pytest.mark.django_db
WORK = reverse("my_work")
OFFER = "Write a better answer"


def better(author, annotation: Annotation, text: str = "Two years, from the day.") -> Demonstration:
    response = annotation.comparison.response(annotation.choice)
    return Demonstration.correct(author, "helpfulness", response, text)


def test_it_works(as_bob, bob):
    annotation = answered(bob)
    assert OFFER in read(as_bob.get(WORK))
    written = better(bob, annotation)
    page = read(as_bob.get(WORK))
    assert OFFER not in page
    link = f'<a href="{reverse("demonstration", args=[written.pk])}">Your better answer'
    assert link in page


def test_an_edit_by_a_reviewer_is_the_one_that_stands(as_bob, bob, rita):
    written = better(bob, answered(bob))
    edited = written.approve_edited(rita, "Two years from the day of purchase.")
    assert f"Your better answer, #{edited.pk}<" in read(as_bob.get(WORK))


def test_after_a_rejection_another_may_be_written(as_bob, bob, rita):
    better(bob, answered(bob)).reject(rita, "Too short.")
    page = read(as_bob.get(WORK))
    assert OFFER in page
    assert "Your better answer" not in page


def test_nobody_elses_and_not_of_the_other_response(as_bob, bob, charlie):
    annotation = answered(bob, open_batch(overlap=2, comparisons=1))
    better(charlie, annotation)
    other = annotation.comparison.response("b")
    Demonstration.correct(bob, "helpfulness", other, "I do not know that, sorry.")
    page = read(as_bob.get(WORK))
    assert OFFER in page
    assert "Your better answer" not in page


def test_it_costs_the_same_for_any_number(as_bob, bob, django_assert_num_queries):
    batch = open_batch(comparisons=12)
    better(bob, answered(bob, batch))
    with django_assert_num_queries(11):
        as_bob.get(WORK)
    for _ in range(9):
        better(bob, answered(bob, batch))
    with django_assert_num_queries(11):
        as_bob.get(WORK)


def test_a_correction_is_no_work_of_the_reviewer(as_rita, rita, bob):
    Review.edit(answered(bob), rita, choice="b", strength="better")
    page = read(as_rita.get(WORK))
    assert "Nothing stored yet." in page
    assert page.count("nothing yet") == 4
