"""Leases and answers: what the rows promise, whatever the order of events."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from annotation_app.models import Annotation, Comparison, Person
from annotation_app.models.refusals import LeaseLost
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db

ANSWER = {"choice": "a", "strength": "better", "active_seconds": 3.5}


def person(name: str) -> Person:
    return Person.objects.create_user(name)


def run_out(annotation: Annotation) -> None:
    Annotation.objects.filter(pk=annotation.pk).update(
        lease_expires_at=timezone.now() - timedelta(seconds=1)
    )
    Annotation.objects.expire()
    annotation.refresh_from_db()


def test_it_works():
    batch, bob = open_batch(), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(**ANSWER)
    assert (annotation.state, annotation.choice, annotation.strength) == ("recorded", "a", "better")
    assert Comparison.objects.get(pk=annotation.comparison_id).open_slots == 0


def test_asking_again_returns_the_same_lease():
    batch, bob = open_batch(), person("bob")
    first = Annotation.objects.lease_next(bob, batch)
    assert Annotation.objects.lease_next(bob, batch) == first
    assert Annotation.objects.count() == 1


def test_resubmission_changes_nothing():
    batch, bob = open_batch(), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(**ANSWER)
    before = Annotation.objects.values().get(pk=annotation.pk)
    annotation.record(**ANSWER | {"active_seconds": 99})
    with pytest.raises(LeaseLost, match="this other one was not stored"):
        annotation.record(choice="b", strength="slightly_better")
    assert Annotation.objects.values().get(pk=annotation.pk) == before


def test_stale_object_cannot_record_twice():
    batch, bob = open_batch(), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    stale = Annotation.objects.get(pk=annotation.pk)
    annotation.record(**ANSWER)
    with pytest.raises(LeaseLost, match="this other one was not stored"):
        stale.record(choice="b", strength="better")
    assert Annotation.objects.get(pk=annotation.pk).choice == "a"


def test_nobody_gets_a_comparison_twice():
    batch, bob = open_batch(overlap=2, comparisons=2), person("bob")
    seen = []
    while (annotation := Annotation.objects.lease_next(bob, batch)) is not None:
        seen.append(annotation.comparison_id)
        annotation.record(**ANSWER)
    assert len(seen) == len(set(seen)) == 2


def test_skipped_comparison_goes_to_someone_else():
    batch, bob, charlie = open_batch(comparisons=1), person("bob"), person("charlie")
    Annotation.objects.lease_next(bob, batch).skip()
    assert Annotation.objects.lease_next(bob, batch) is None
    assert Annotation.objects.lease_next(charlie, batch) is not None


def test_expired_lease_frees_the_slot():
    batch, bob, charlie = open_batch(comparisons=1), person("bob"), person("charlie")
    annotation = Annotation.objects.lease_next(bob, batch)
    assert Annotation.objects.lease_next(charlie, batch) is None
    run_out(annotation)
    assert annotation.state == "expired"
    assert Annotation.objects.lease_next(charlie, batch) is not None


def test_late_answer_takes_its_free_slot_back():
    batch, bob = open_batch(comparisons=1), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    run_out(annotation)
    annotation.record(**ANSWER)
    assert annotation.state == "recorded"
    assert Comparison.objects.get().open_slots == 0


def test_late_answer_to_a_filled_slot_is_kept_as_surplus():
    batch, bob, charlie = open_batch(comparisons=1), person("bob"), person("charlie")
    annotation = Annotation.objects.lease_next(bob, batch)
    run_out(annotation)
    Annotation.objects.lease_next(charlie, batch).record(**ANSWER)
    annotation.record(**ANSWER)
    assert annotation.state == "surplus"
    assert Comparison.objects.get().open_slots == 0
    assert Annotation.objects.work().count() == 1


def test_late_answer_takes_another_slot_that_is_free():
    batch, bob, charlie = open_batch(overlap=2, comparisons=1), person("bob"), person("charlie")
    annotation = Annotation.objects.lease_next(bob, batch)
    run_out(annotation)
    Annotation.objects.lease_next(charlie, batch).record(**ANSWER)
    annotation.record(**ANSWER)
    assert (annotation.state, annotation.slot) == ("recorded", 1)
    assert Comparison.objects.get().open_slots == 0
    assert Annotation.objects.work().count() == 2


def test_answer_to_a_skipped_comparison_is_refused():
    batch, bob = open_batch(), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    stale = Annotation.objects.get(pk=annotation.pk)
    annotation.skip()
    with pytest.raises(LeaseLost, match="skipped"):
        stale.record(**ANSWER)


def test_heartbeat_extends_the_lease_and_ends_with_it():
    batch, bob = open_batch(), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    before = annotation.lease_expires_at
    annotation.heartbeat()
    assert annotation.lease_expires_at > before
    run_out(annotation)
    with pytest.raises(LeaseLost):
        annotation.heartbeat()


def test_a_page_that_is_left_open_does_not_keep_a_batch_from_closing():
    batch, bob = open_batch(), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    assert annotation.heartbeat()
    batch.close()
    ends = annotation.lease_expires_at
    assert not annotation.heartbeat()
    assert annotation.lease_expires_at == ends
    run_out(annotation)
    with pytest.raises(LeaseLost):
        annotation.heartbeat()
    assert batch.finish_closing()


def test_excluded_answer_stays_readable_and_frees_its_slot():
    batch, bob = open_batch(comparisons=1), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(**ANSWER)
    annotation.exclude("clicked at random")
    assert (annotation.state, annotation.choice) == ("excluded", "a")
    assert annotation.ended_at > annotation.recorded_at
    assert Comparison.objects.get().open_slots == 1


def test_closed_batch_gives_no_leases():
    batch, bob = open_batch(), person("bob")
    batch.close()
    assert Annotation.objects.lease_next(bob, batch) is None


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"slot": 1}, "annotation_slot_within_overlap"),
        ({"choice": "c"}, "annotation_recorded_has_choice"),
        ({"strength": "much"}, "annotation_strength_known"),
        ({"choice": "a", "a_safe": False, "b_safe": True}, "annotation_safety_not_contradictory"),
    ],
)
def test_database_refuses(change, constraint):
    batch, bob = open_batch(), person("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(**ANSWER)
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Annotation.objects.filter(pk=annotation.pk).update(**change)


def test_database_refuses_a_second_live_annotation_in_a_slot():
    batch, bob, charlie = open_batch(comparisons=1), person("bob"), person("charlie")
    annotation = Annotation.objects.lease_next(bob, batch)
    with pytest.raises(IntegrityError), transaction.atomic():
        Annotation.objects.create(
            comparison=annotation.comparison,
            batch=batch,
            annotator=charlie,
            slot=0,
            shown_left="a",
            leased_at=timezone.now(),
            lease_expires_at=timezone.now(),
        )


@pytest.mark.django_db(transaction=True)
def test_eight_annotators_at_once_never_exceed_the_overlap():
    batch = open_batch(overlap=2, comparisons=20)
    people = [person(f"annotator{n}") for n in range(8)]

    def work(annotator: Person) -> int:
        recorded = 0
        while (annotation := Annotation.objects.lease_next(annotator, batch)) is not None:
            annotation.record(**ANSWER)
            recorded += 1
        connection.close()
        return recorded

    with ThreadPoolExecutor(len(people)) as pool:
        recorded = sum(pool.map(work, people))
    per_comparison = Counter(Annotation.objects.live().values_list("comparison", flat=True))
    assert recorded == sum(per_comparison.values()) == 40
    assert set(per_comparison.values()) == {2}
    assert set(Comparison.objects.values_list("open_slots", flat=True)) == {0}
