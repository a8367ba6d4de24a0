"""/team/…: what a reviewer sees of one annotator, and decides."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import Annotation, Comparison
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db


def judge(who, batch) -> None:
    while (annotation := Annotation.objects.lease_next(who, batch)) is not None:
        annotation.record(choice="a", strength="better", active_seconds=20.0)


def exclude(client, who, **fields):
    today = timezone.now().date().isoformat()
    known = {"since": today, "until": today, "reason": "Clicked at random."}
    return client.post(reverse("exclude_work", args=[who.pk]), known | fields)


def test_it_works(as_rita, bob):
    judge(bob, open_batch())
    content = as_rita.get(reverse("member", args=[bob.pk])).content.decode()
    assert "Self-agreement" in content
    assert "undefined" in content  # no reference yet


def test_pause_and_its_end(as_rita, bob):
    as_rita.post(reverse("pause_member", args=[bob.pk]), {"reason": "Let us talk."})
    bob.refresh_from_db()
    assert bob.paused_reason == "Let us talk."
    as_rita.post(reverse("resume_member", args=[bob.pk]))
    bob.refresh_from_db()
    assert (bob.paused_reason, bob.resumed_at is None) == ("", False)


def test_a_pause_needs_a_reason(as_rita, bob):
    answer = as_rita.post(reverse("pause_member", args=[bob.pk]), {"reason": " "})
    assert answer.status_code == 400
    assert "the annotator will read it" in answer.content.decode()


def test_excluding_is_asked_twice(as_rita, bob):
    judge(bob, open_batch())
    content = exclude(as_rita, bob).content.decode()
    assert "Exclude 3 answers" in content
    assert Annotation.objects.recorded().count() == 3
    exclude(as_rita, bob, sure="on")
    assert not Annotation.objects.recorded().exists()
    assert set(Annotation.objects.values_list("reason", flat=True)) == {"Clicked at random. (rita)"}
    assert set(Comparison.objects.values_list("open_slots", flat=True)) == {1}


def test_excluded_comparisons_are_judged_by_others(as_rita, bob, charlie):
    batch = open_batch()
    judge(bob, batch)
    assert Annotation.objects.lease_next(charlie, batch) is None
    exclude(as_rita, bob, sure="on")
    judge(charlie, batch)
    assert Annotation.objects.recorded().filter(annotator=charlie).count() == 3


def test_only_the_days_and_the_person_named(as_rita, bob, charlie):
    batch = open_batch(overlap=2)
    judge(bob, batch), judge(charlie, batch)
    earlier = Annotation.objects.filter(annotator=bob).order_by("pk").first()
    yesterday = timezone.now() - timedelta(days=1)
    Annotation.objects.filter(pk=earlier.pk).update(recorded_at=yesterday)
    exclude(as_rita, bob, sure="on")
    left = Annotation.objects.recorded()
    assert set(left.filter(annotator=bob)) == {earlier}
    assert left.filter(annotator=charlie).count() == 3


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"reason": ""}, "Say why."),
        ({"since": "2026-02-30"}, "Enter a valid date."),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "2026-03-02 is after 2026-03-01"),
        ({"since": "2020-01-01", "until": "2020-01-02"}, "recorded no work on these days"),
    ],
)
def test_what_cannot_be_excluded_is_said(as_rita, bob, fields, sentence):
    judge(bob, open_batch())
    answer = exclude(as_rita, bob, sure="on", **fields)
    if answer.status_code == 302:  # nothing was found
        answer = exclude(as_rita, bob, **fields)
    assert sentence in answer.content.decode()
    assert Annotation.objects.recorded().count() == 3


@pytest.mark.parametrize("name", ["member", "pause_member", "resume_member", "exclude_work"])
def test_annotators_must_not(as_bob, bob, charlie, name):
    address = reverse(name, args=[charlie.pk])
    answer = as_bob.get(address) if name == "member" else as_bob.post(address, {"reason": "No."})
    assert answer.status_code == 403
    charlie.refresh_from_db()
    assert charlie.paused_reason == ""


def test_the_queries_do_not_grow(as_rita, bob, django_assert_max_num_queries):
    judge(bob, open_batch(comparisons=10))
    with django_assert_max_num_queries(10):
        as_rita.get(reverse("member", args=[bob.pk]))
