"""/comparisons/… and /references: known answers, and what is given first."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Annotation, Reference
from tests.annotation_app.rows import comparison, open_batch

pytestmark = pytest.mark.django_db


@pytest.fixture
def first(db):
    return open_batch().comparisons.order_by("pk").first()


def test_it_works(as_alice, first, bob):
    Annotation.objects.lease_next(bob, first.batch).record(choice="a", strength="better")
    content = as_alice.get(reverse("comparison", args=[first.pk])).content.decode()
    assert "Two years." in content
    assert "bob" in content


def test_a_known_answer(as_alice, first):
    as_alice.post(
        reverse("set_reference", args=[first.pk]), {"choice": "a", "reason": "It answers."}
    )
    assert first.reference.choice == "a"
    content = as_alice.get(reverse("references")).content.decode()
    assert "It answers." in content
    as_alice.post(reverse("retire_reference", args=[first.pk]))
    assert not Reference.objects.served().exists()
    again = as_alice.post(
        reverse("set_reference", args=[first.pk]), {"choice": "b", "reason": "No."}
    )
    assert again.status_code == 409
    first.reference.refresh_from_db()
    assert first.reference.choice == "a"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"choice": "", "reason": "It answers."}, "Say which response is better."),
        ({"choice": "tie", "reason": "It answers."}, "Select a valid choice."),
        ({"choice": "a", "reason": ""}, "others will have to judge by it"),
    ],
)
def test_half_an_answer_stays_with_a_sentence(as_alice, first, fields, sentence):
    answer = as_alice.post(reverse("set_reference", args=[first.pk]), fields)
    assert answer.status_code == 400
    assert sentence in answer.content.decode()
    assert not Reference.objects.exists()


def test_what_everyone_clearly_prefers_is_suggested(as_alice, bob, charlie):
    batch = open_batch(overlap=2, comparisons=0)
    clear, split, mild = (comparison(batch, f"Question {n}?") for n in range(3))
    for who, answers in ((bob, "bba"), (charlie, "bab")):
        for choice in answers:
            found = Annotation.objects.lease_next(who, batch)
            strength = "slightly_better" if found.comparison == mild else "better"
            choice = "a" if found.comparison == mild else choice
            found.record(choice=choice, strength=strength)
    content = as_alice.get(reverse("references")).content.decode()
    assert reverse("comparison", args=[clear.pk]) in content
    assert reverse("comparison", args=[split.pk]) not in content
    assert reverse("comparison", args=[mild.pk]) not in content


def test_the_highest_priority_is_given_first(as_alice, bob, first):
    last = first.batch.comparisons.order_by("pk").last()
    as_alice.post(reverse("set_priority", args=[last.pk]), {"priority": "5"})
    assert Annotation.objects.lease_next(bob, first.batch).comparison == last


@pytest.mark.parametrize("priority", ["much", "99999999999999"])
def test_a_priority_that_is_none(as_alice, first, priority):
    answer = as_alice.post(reverse("set_priority", args=[first.pk]), {"priority": priority})
    assert answer.status_code == 400
    first.refresh_from_db()
    assert first.priority == 0


@pytest.mark.parametrize("name", ["set_reference", "retire_reference", "set_priority"])
def test_annotators_must_not(as_bob, first, name):
    assert as_bob.post(reverse(name, args=[first.pk])).status_code == 403
    assert as_bob.get(reverse("comparison", args=[first.pk])).status_code == 403
    assert as_bob.get(reverse("references")).status_code == 403
    assert not Reference.objects.exists()


def test_unknown_comparison(as_alice):
    assert as_alice.get(reverse("comparison", args=[999])).status_code == 404
