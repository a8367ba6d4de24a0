"""/decisions/…/undo: a decision taken back, by its link and by its key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import Annotation, Review
from tests.annotation_app.rows import open_batch
from tests.annotation_app.views.test_reviews import (
    NEXT,
    REVIEWS,
    WORK,
    address,
    answered,
    decide,
    read,
)
from tests.annotation_app.views.test_reviews_by_key import desk, press, reviewed  # noqa: F401

pytestmark = pytest.mark.django_db


def undo(review: Review) -> str:
    return reverse("undo_review", args=[review.pk])


def test_it_works(as_rita, bob):
    batch = open_batch(comparisons=2)
    annotation = answered(bob, batch)
    decide(as_rita, annotation, "rejected", feedback="At random.")
    review = Review.objects.get()
    for where in (REVIEWS, address(answered(bob, batch))):
        page = read(as_rita.get(where))
        assert f'Last decision: rejected <a href="{address(annotation)}">' in page
        assert f'action="{undo(review)}"' in page
    answer = as_rita.post(undo(review), follow=True)
    restored = Annotation.objects.get(supersedes=annotation)
    assert answer.redirect_chain == [(address(restored), 302)]
    assert (
        f"Undone: #{annotation.pk} is rejected no more and waits for another decision as "
        f"#{restored.pk}." in read(answer)
    )
    assert 'id="decision"' in read(answer)
    assert "Last decision" not in read(answer)


def test_its_feedback_is_gone_from_the_annotators_page(client, bob, rita):
    review = Review.edit(answered(bob), rita, "B is right.", choice="b", strength="better")
    client.force_login(bob)
    assert "B is right." in read(client.get(WORK))
    review.undo(rita)
    page = read(client.get(WORK))
    assert "B is right." not in page
    assert "None yet: reviewers look at a share" in page


def test_too_late_says_so_and_keeps_the_decision(as_rita, rita, bob):
    annotation = answered(bob)
    review = Review.approve(annotation, rita)
    Review.objects.update(created_at=timezone.now() - timedelta(hours=1))
    assert "Last decision" not in read(as_rita.get(REVIEWS))
    answer = as_rita.post(undo(review), follow=True)
    assert answer.redirect_chain == [(address(annotation), 302)]
    assert "A decision can be undone for 10 minutes; this one is older." in read(answer)
    assert Review.objects.standing().exists()


def test_what_has_followed_is_told(as_rita, rita, bob, charlie):
    batch = open_batch(comparisons=1)
    review = Review.reject(answered(bob, batch), rita, "At random.")
    answered(charlie, batch)
    answer = as_rita.post(undo(review), follow=True)
    assert "Someone else has been given its place since, so the rejection stays." in read(answer)
    assert "has been reviewed already: rejected by you" in read(answer)


def test_only_by_a_post_of_the_reviewer(client, as_rita, rita, alice, bob):
    review = Review.approve(answered(bob), rita)
    assert as_rita.get(undo(review)).status_code == 405
    assert as_rita.post(reverse("undo_review", args=[999_999])).status_code == 404
    client.force_login(alice)
    assert "Last decision" not in read(client.get(REVIEWS))
    assert client.post(undo(review)).status_code == 403
    client.force_login(bob)
    assert client.post(undo(review)).status_code == 403
    client.logout()
    assert client.post(undo(review)).url.startswith(reverse("sign_in"))
    assert Review.objects.standing().exists()


def test_twice_is_once_and_the_filter_is_kept(as_rita, rita, bob):
    review = Review.reject(answered(bob), rita, "At random.")
    for _ in range(2):
        answer = as_rita.post(undo(review) + "?annotator=bob")
        assert answer.url.endswith("?annotator=bob")
        assert as_rita.get(answer.url).status_code == 200
    assert Annotation.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_by_its_key(desk, bob):  # noqa: F811
    batch = open_batch(comparisons=3)
    for _ in range(3):
        answered(bob, batch)
    page = desk(NEXT)
    press(page, "u")  # nothing was decided yet
    page.wait_for_timeout(300)
    press(page, "a")
    reviewed(page, "Approved:")
    press(page, "u")
    reviewed(page, "Undone:")
    first = Review.objects.get()
    assert first.undone_at is not None
    assert page.url.endswith(address(first.annotation))
    press(page, "r")
    page.keyboard.type("unusual u")  # letters are words here
    press(page, "Control+Enter")
    reviewed(page, "Rejected:")
    assert Review.objects.standing().get().feedback == "unusual u"
    assert Review.objects.standing().get().annotation == first.annotation
