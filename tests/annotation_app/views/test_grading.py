"""/qualifications/grading and results: what reviewers do, and annotators never see."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import (
    Attempt,
    FurtherAttempt,
)
from tests.annotation_app.qualifications import (
    comparisons,
    only_gate,
    passed,
    publish,
    quiz,
    write,
    writing,
)
from tests.annotation_app.views.test_qualifications import GRADING, LIST, NEW, text, waiting_text

pytestmark = pytest.mark.django_db


def test_grading(as_rita, rita, bob, alice):
    gate = only_gate(publish(alice, writing(2)))
    first = waiting_text(bob, gate)
    own = waiting_text(rita, gate)
    page = text(as_rita.get(GRADING))
    assert "Grade the first of 2" in page
    assert "bob" not in page
    page = text(as_rita.get(reverse("grade", args=[first.pk])))
    assert "Text 1." in page
    assert "bob" not in page
    address = reverse("grade", args=[first.pk])
    for odd in ({}, {"grade": "6"}, {"grade": "0"}, {"grade": "4.5"}):
        assert as_rita.post(address, odd).status_code == 400
    answer = as_rita.post(address, {"grade": "5", "comment": "Clear."})
    second = first.attempt.answers.last()
    assert answer.url == reverse("grade", args=[second.pk])
    assert "Clear.</textarea>" in text(as_rita.get(address))  # whoever corrects keeps the comment
    assert as_rita.post(address, {"grade": "1"}).status_code == 409
    assert as_rita.get(reverse("grade", args=[own.pk])).status_code == 403
    assert as_rita.post(reverse("grade", args=[own.pk]), {"grade": "5"}).status_code == 403
    page = text(as_rita.post(answer.url, {"grade": "4", "comment": "Kept."}))
    assert "the last grade of the attempt, which passes with a mean of 4.50" in page
    assert "Kept.</textarea>" in page
    assert as_rita.post(answer.url, {"grade": "4", "sure": "4"}).url == GRADING
    assert "Nothing waits for a grade" in text(as_rita.get(GRADING))
    first.attempt.refresh_from_db()
    assert (first.attempt.state, first.attempt.score) == ("passed", 4.5)
    as_rita.force_login(bob)
    page = text(as_rita.get(reverse("attempt", args=[first.attempt_id])))
    assert "mean grade 4.50" in page
    assert "Clear." in page
    assert "rita" not in page


def test_only_finished_texts_can_be_graded(as_rita, bob, alice):
    attempt = Attempt.begin(only_gate(publish(alice, writing(1))), bob)
    write(attempt, 1)
    address = reverse("grade", args=[attempt.answers.get().pk])
    assert "does not wait for a grade" in text(as_rita.get(address))
    assert as_rita.post(address, {"grade": "5"}).status_code == 409
    quizzed = passed(only_gate(publish(alice, quiz(1), skill="Sums")), bob)
    assert as_rita.get(reverse("grade", args=[quizzed.answers.get().pk])).status_code == 404


def test_results_and_another_attempt(as_rita, bob, charlie, alice):
    made = publish(alice, quiz(), comparisons())
    first = made.gates.first()
    passed(first, bob)
    Attempt.begin(first, charlie).finish()
    results = reverse("qualification_results", args=[made.pk])
    page = text(as_rita.get(results))
    assert "3 of 3 right" in page
    assert "0 of 3 right" in page
    assert "Allow charlie another attempt at Sums" in page
    assert "Allow bob" not in page
    allow = reverse("allow_attempt", args=[first.pk, charlie.pk])
    assert as_rita.get(allow).status_code == 405
    assert as_rita.post(allow).url == results
    assert as_rita.post(allow).status_code == 409
    assert as_rita.post(reverse("allow_attempt", args=[first.pk, 10**15])).status_code == 404
    assert FurtherAttempt.objects.count() == 1
    assert "attempt 1 of 2" in text(as_rita.get(results))


def test_annotators_see_none_of_it(as_bob, bob, alice):
    made = publish(alice, writing(1))
    waiting = waiting_text(bob, only_gate(made))
    for address in (
        GRADING,
        reverse("grade", args=[waiting.pk]),
        reverse("qualification_results", args=[made.pk]),
        reverse("download_qualification", args=[made.pk]),
        NEW,
    ):
        assert as_bob.get(address).status_code == 403
    for name, args in (
        ("grade", [waiting.pk]),
        ("close_qualification", [made.pk]),
        ("allow_attempt", [only_gate(made).pk, bob.pk]),
        ("new_qualification", []),
    ):
        assert as_bob.post(reverse(name, args=args), {"grade": "5"}).status_code == 403
    page = text(as_bob.get(LIST)) + text(as_bob.get(reverse("qualification", args=[made.pk])))
    for word in ("Grading", "Results", "Download", "Close it"):
        assert word not in page


def test_nobody_without_signing_in(client, alice):
    made = publish(alice)
    for address in (LIST, NEW, GRADING, reverse("gate", args=[only_gate(made).pk])):
        assert client.get(address).url.startswith("/sign-in")


def test_reviewers_do_not_configure(as_rita, alice):
    made = publish(alice)
    assert as_rita.get(NEW).status_code == 403
    assert as_rita.get(reverse("download_qualification", args=[made.pk])).status_code == 403
    assert as_rita.post(reverse("close_qualification", args=[made.pk])).status_code == 403
