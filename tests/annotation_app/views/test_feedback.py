"""What becomes of a review on its annotator's side: feedback on /work, answers judged again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import Annotation, Review
from tests.annotation_app.rows import open_batch
from tests.annotation_app.views.test_reviews import ANNOTATE, NEXT, WORK, address, answered, read

pytestmark = pytest.mark.django_db


def test_feedback_reaches_its_annotator_alone_and_names_nobody(client, bob, charlie, rita):
    batch = open_batch(comparisons=4)
    answers = [answered(bob, batch) for _ in range(4)]
    Review.approve(answers[0], rita)
    Review.edit(answers[1], rita, "Wordy <b>nonsense</b>.", choice="b", strength="better",
                a_safe=None, b_safe=None)  # fmt: skip
    Review.reject(answers[2], rita, "You clicked at random.")
    client.force_login(bob)
    page = read(client.get(WORK))
    assert "Wordy &lt;b&gt;nonsense&lt;/b&gt;." in page
    assert "Corrected to:" in page
    assert "You clicked at random." in page
    assert "rita" not in page
    assert page.count("<b>new</b>") == 2
    client.force_login(charlie)
    page = read(client.get(WORK))
    assert "You clicked at random." not in page
    assert "None yet: reviewers look at a share of the answers" in page


def test_got_it_marks_ones_own_as_read(client, bob, charlie, rita):
    batch = open_batch(comparisons=2)
    for person in (bob, charlie):
        Review.reject(answered(person, batch), rita, "At random.")
    client.force_login(bob)
    client.get(WORK)
    assert not Review.objects.exclude(seen_at=None).exists()
    client.post(reverse("feedback_seen"), {"oldest": 1, "newest": 2**62})
    assert Review.objects.exclude(seen_at=None).get().annotator == bob
    page = read(client.get(WORK))
    assert "<b>new</b>" not in page
    assert "Got it" not in page
    assert client.post(reverse("feedback_seen"), {"newest": "x"}).url == WORK


def test_only_what_was_shown_is_marked_as_read(client, bob, rita):
    batch = open_batch(comparisons=23)
    for _ in range(23):
        Review.reject(answered(bob, batch), rita, "At random.")
    client.force_login(bob)
    page = client.get(WORK)
    news = page.context["news"]
    client.post(reverse("feedback_seen"), {"oldest": news[-1], "newest": news[0]})
    assert Review.objects.filter(seen_at=None).count() == 3
    assert read(client.get(WORK)).count("<b>new</b>") == 3


def test_what_was_sent_back_is_judged_again(client, bob, rita):
    annotation = answered(bob)
    hour_ago = timezone.now() - timedelta(hours=1)
    Annotation.objects.update(recorded_at=hour_ago, shown_left="a")
    client.force_login(bob)
    assert client.get(address(annotation, "revise")).status_code == 409
    Review.send_back(annotation, rita, "Read the second sentence.")
    assert "1 of your answers was sent back to you" in read(client.get(ANNOTATE))
    assert f'href="{address(annotation, "revise")}"' in read(client.get(WORK))
    page = read(client.get(address(annotation, "revise")))
    assert "Read the second sentence." in page
    assert "You had chosen: Left better." in page
    assert "checked" not in page.split('id="judgement"')[1].split("</form>")[0]
    client.post(address(annotation, "revise"), {"preference": "right_better"})
    annotation.refresh_from_db()
    assert (annotation.state, annotation.superseded_by.choice) == ("superseded", "b")
    page = read(client.get(WORK))
    assert "Sent back to you" not in page
    assert "You have judged again." in page
    client.force_login(rita)
    assert client.get(NEXT).url == address(annotation.superseded_by)


def test_nobody_elses_sent_back_answer_can_be_judged(client, bob, charlie, rita):
    annotation = answered(bob)
    Review.send_back(annotation, rita, "Again.")
    client.force_login(charlie)
    assert "sent back" not in read(client.get(ANNOTATE))
    for ask in (client.get, client.post):
        answer = ask(address(annotation, "revise"), {"preference": "right_better"})
        assert answer.status_code == 403
    annotation.refresh_from_db()
    assert annotation.state == "recorded"


def test_an_ordinary_undo_shows_no_feedback(as_bob, bob):
    annotation = answered(bob)
    assert "review-note" not in read(as_bob.get(address(annotation, "revise")))
