"""Who is given a comparison, and what the others are told."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Annotation, Organisation, Skill
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db


def pause(bob, batch):
    bob.pause("Your answers look like chance; we will talk.")


def decline(bob, batch):
    bob.does_safety = False
    bob.save()


def cap(bob, batch):
    Organisation.objects.create(pk=1, safety_daily_cap=1)


def limit(bob, batch):
    batch.most_per_annotator = 1
    batch.save()


def require(bob, batch):
    batch.required_skills.add(Skill.objects.create(name="German"))


REASONS = [
    (pause, 0, "Your work is paused: Your answers look like chance; we will talk."),
    (decline, 0, "You have chosen not to do safety work."),
    (cap, 1, "1 safety comparisons are enough for one day."),
    (limit, 1, "You have had your 1 comparisons of this batch; the rest is for others."),
    (require, 0, "This batch asks for what you do not have yet: German."),
]


@pytest.mark.parametrize(("forbid", "given", "sentence"), REASONS)
def test_no_more_comparisons_and_the_reason(as_bob, bob, forbid, given, sentence):
    batch = open_batch("safety")
    forbid(bob, batch)
    for _ in range(given):
        Annotation.objects.lease_next(bob, batch).record(
            choice="a", strength="better", a_safe=True, b_safe=True
        )
    assert Annotation.objects.lease_next(bob, batch) is None
    assert sentence in as_bob.get(reverse("annotate_next", args=["safety"])).content.decode()


@pytest.mark.parametrize(("forbid", "given", "sentence"), REASONS)
def test_the_page_that_goes_on_by_itself_says_so_too(as_bob, bob, forbid, given, sentence):
    batch = open_batch("safety", comparisons=5)
    first = Annotation.objects.lease_next(bob, batch)
    forbid(bob, batch)
    answer = as_bob.post(
        reverse("record", args=[first.pk]),
        {"preference": "left_better", "safe": "both"},
        headers={"Accept": "application/json"},
    ).json()
    assert answer["saved"]["id"] == first.pk
    assert answer["next"] is None
    assert sentence in answer["why"]


def test_nothing_forbids_the_others(bob, charlie):
    batch = open_batch("safety")
    pause(bob, batch)
    limit(bob, batch)
    skill = Skill.objects.create(name="German")
    batch.required_skills.add(skill)
    charlie.skills.add(skill)
    assert Annotation.objects.lease_next(charlie, batch) is not None


def test_the_cap_counts_today_and_safety_only(bob):
    Organisation.objects.create(pk=1, safety_daily_cap=1)
    helpful, safety = open_batch("helpfulness"), open_batch("safety")
    first = Annotation.objects.lease_next(bob, safety)
    first.record(choice="a", strength="better", a_safe=True, b_safe=True)
    assert Annotation.objects.lease_next(bob, helpful) is not None
    Annotation.objects.filter(pk=first.pk).update(leased_at="2020-01-01T00:00Z")
    assert Annotation.objects.lease_next(bob, safety) is not None


def test_end_of_the_pause(bob):
    batch = open_batch()
    bob.pause("A moment.")
    bob.resume()
    assert Annotation.objects.lease_next(bob, batch) is not None
