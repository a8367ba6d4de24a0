"""Reference comparisons and re-serves: mixed in at the set rates, and never work."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation_app import snapshots
from annotation_app.models import Annotation, Batch, Comparison, Organisation, Reference, Side
from annotation_app.models.refusals import CannotStart, WrongState
from tests.annotation_app.rows import comparison, open_batch

pytestmark = pytest.mark.django_db
ANSWER = {"choice": "a", "strength": "better"}


def rates(reference: float = 0.0, re_serve: float = 0.0) -> None:
    Organisation.objects.create(pk=1, reference_rate=reference, re_serve_rate=re_serve)


def closed_batch_with_references(alice, count: int) -> list[Comparison]:
    batch = open_batch(comparisons=count)
    found = list(batch.comparisons.all())
    for known in found:
        Reference.set(known, "b", "The other one refuses.", by=alice)
    Batch.objects.filter(pk=batch.pk).update(state="closed")
    return found


def judged_days_ago(bob, days: float, comparisons: int = 3) -> list[Annotation]:
    batch = open_batch(comparisons=comparisons)
    found = []
    while (annotation := Annotation.objects.lease_next(bob, batch)) is not None:
        annotation.record(**ANSWER)
        found.append(annotation)
    Batch.objects.filter(pk=batch.pk).update(state="closed")
    moment = timezone.now() - timedelta(days=days)
    Annotation.objects.update(leased_at=moment, recorded_at=moment)
    return found


def the_reference(bob, batch) -> Annotation:
    """Draw until it is no work."""
    while (leased := Annotation.objects.lease_next(bob, batch)).purpose == "work":
        leased.release()
    return leased


def purposes(who, batch) -> Counter[str]:
    """Of everything that the batch gives, each answered."""
    found: Counter[str] = Counter()
    while (leased := Annotation.objects.lease_next(who, batch)) is not None:
        leased.record(**ANSWER)
        found[leased.purpose] += 1
    return found


def test_references_are_mixed_in_at_the_rate(bob, alice):
    known = closed_batch_with_references(alice, 60)
    batch = open_batch(comparisons=120)
    rates(reference=0.5)
    drawn: Counter[str] = Counter()
    for _ in range(100):
        leased = Annotation.objects.lease_next(bob, batch)
        leased.record(**ANSWER)
        drawn[leased.purpose] += 1
        assert (leased.comparison in known) == (leased.purpose == "reference")
        assert leased.batch == batch
    assert 25 <= drawn["reference"] <= 60  # 50 expected of 60 that there are


def test_nobody_gets_the_same_reference_twice_and_then_it_is_work(bob, alice):
    closed_batch_with_references(alice, 2)
    batch = open_batch(comparisons=3)
    rates(reference=0.5)
    Organisation.objects.update(re_serve_rate=0.5)  # every draw tries for a probe
    found = []
    while (leased := Annotation.objects.lease_next(bob, batch)) is not None:
        leased.record(**ANSWER)
        found.append((leased.comparison_id, leased.purpose))
    assert len(found) == len({pk for pk, _ in found})
    assert [purpose for _, purpose in found].count("work") == 3


def test_a_reference_of_the_other_criterion_or_retired_is_not_served(bob, alice):
    first, second = closed_batch_with_references(alice, 2)
    Comparison.objects.filter(pk=first.pk).update(criterion="safety")
    second.reference.retire()
    batch = open_batch(comparisons=20)
    rates(reference=0.5)
    assert purposes(bob, batch) == {"work": 20}


def test_a_reference_takes_no_slot_and_becomes_no_pair(bob, alice):
    (known,) = closed_batch_with_references(alice, 1)
    batch = open_batch(comparisons=1)
    rates(reference=0.5)
    leased = the_reference(bob, batch)
    leased.record(**ANSWER)
    known.refresh_from_db()
    assert (leased.slot, known.open_slots) == (None, 1)
    with pytest.raises(CannotStart, match="no helpfulness comparison with a choice to train on"):
        snapshots.write_snapshot("helpfulness")
    assert batch.recorded() == 0


def test_a_reference_to_one_is_work_to_another(bob, charlie, alice):
    batch = open_batch(comparisons=1)
    Reference.set(batch.comparisons.get(), "a", "Plainly.", by=alice)
    rates(reference=0.5)
    the_reference(bob, batch).record(**ANSWER)
    Organisation.objects.update(reference_rate=0)
    leased = Annotation.objects.lease_next(charlie, batch)
    assert (leased.purpose, leased.slot) == ("work", 0)
    leased.record(**ANSWER)
    assert Comparison.objects.get().open_slots == 0


@pytest.mark.parametrize("end", ["release", "skip", "expire"])
def test_a_reference_given_back_frees_no_slot(bob, alice, end):
    (known,) = closed_batch_with_references(alice, 1)
    batch = open_batch(comparisons=1)
    rates(reference=0.5)
    leased = the_reference(bob, batch)
    if end == "expire":
        Annotation.objects.filter(pk=leased.pk).update(lease_expires_at=timezone.now())
        assert Annotation.objects.expire() == 1
    else:
        getattr(leased, end)()
    known.refresh_from_db()
    assert known.open_slots == 1


def test_a_late_answer_to_a_reference_counts(bob, alice):
    closed_batch_with_references(alice, 1)
    batch = open_batch(comparisons=1)
    rates(reference=0.5)
    leased = the_reference(bob, batch)
    Annotation.objects.filter(pk=leased.pk).update(state="expired")
    leased.record(**ANSWER)
    assert (leased.state, leased.slot) == ("recorded", None)


def test_a_re_serve_has_its_sides_exchanged_and_comes_once(bob):
    first = judged_days_ago(bob, days=3)
    batch = open_batch(comparisons=1)
    rates(re_serve=0.5)
    served = {}
    for _ in range(200):
        leased = Annotation.objects.lease_next(bob, batch)
        if leased.purpose == "work":
            leased.release()
            continue
        leased.record(**ANSWER)
        assert leased.comparison_id not in served
        served[leased.comparison_id] = leased
        if len(served) == 3:
            break
    assert {a.comparison_id for a in first} == set(served)
    for annotation in first:
        assert served[annotation.comparison_id].shown_left == Side(annotation.shown_left).other
        assert served[annotation.comparison_id].purpose == "re-serve"
    assert Annotation.objects.work().count() == 3


@pytest.mark.parametrize("days", [1, 40])
def test_neither_yesterdays_work_nor_last_months_is_served_again(bob, days):
    judged_days_ago(bob, days)
    batch = open_batch(comparisons=30)
    rates(re_serve=0.5)
    assert purposes(bob, batch) == {"work": 30}


def test_other_peoples_work_is_not_served_again(bob, charlie):
    judged_days_ago(charlie, days=3)
    batch = open_batch(comparisons=30)
    rates(re_serve=0.5)
    assert purposes(bob, batch) == {"work": 30}


def test_a_paused_person_gets_no_probe(bob, alice):
    closed_batch_with_references(alice, 5)
    batch = open_batch()
    rates(reference=0.5)
    bob.pause("A moment.")
    assert {Annotation.objects.lease_next(bob, batch) for _ in range(20)} == {None}


def test_the_page_shows_a_probe_like_work(as_bob, bob, alice):
    closed_batch_with_references(alice, 30)
    batch = open_batch(comparisons=30)
    rates(reference=0.5)
    shown = Annotation.objects.lease_next(bob, batch)
    for _ in range(20):
        answer = as_bob.post(
            reverse("record", args=[shown.pk]),
            {"preference": "left_better"},
            headers={"Accept": "application/json"},
        )
        assert "reference" not in answer.content.decode()
        shown = Annotation.objects.get(pk=answer.json()["next"]["id"])
    answered = Annotation.objects.recorded().filter(batch=batch)
    assert set(answered.values_list("purpose", flat=True)) == {"work", "reference"}


def test_a_reference_is_set_once_and_only_where_it_can_be_served(alice):
    batch = open_batch(comparisons=1)
    same = comparison(batch, "Another?", "Same.", "Same.")
    with pytest.raises(WrongState, match="is never served: identical answers"):
        Reference.set(same, "a", "No reason.", by=alice)
    first = batch.comparisons.first()
    Reference.set(first, "a", "It answers.", by=alice)
    with pytest.raises(WrongState, match="is already set: a"):
        Reference.set(first, "b", "Changed my mind.", by=alice)


def test_a_share_of_comparisons_is_judged_by_two(settings):
    settings.DUAL_SHARE = 0.5
    random.seed(0)
    batch = open_batch(comparisons=60)
    overlaps = Counter(batch.comparisons.values_list("overlap", flat=True))
    assert set(overlaps) == {1, 2}
    assert 15 <= overlaps[2] <= 45
    counted = Batch.objects.with_progress().get(pk=batch.pk)
    assert counted.wanted_count == 60 + overlaps[2]
