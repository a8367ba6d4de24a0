"""A reviewer takes a decision back: what comes again, and what has followed by then."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from annotation_app import quality, snapshots, storage, team
from annotation_app.models import Annotation, Comparison, Person, Remark, Review
from annotation_app.models.refusals import LeaseLost, NotAssigned, WrongState
from reward.preferences import read_pairs
from tests.annotation_app.rows import open_batch
from tests.annotation_app.test_review import OTHER, answered, close

pytestmark = pytest.mark.django_db


def exported() -> list[tuple[str, list[str]]]:
    """The pairs of a fresh snapshot: what was chosen, and whose verdicts say so."""
    folder = storage.path(snapshots.write_snapshot("helpfulness").storage_key)
    pairs = [*read_pairs(folder / "pairs.jsonl"), *read_pairs(folder / "holdout.jsonl")]
    return [(pair.chosen, [verdict.annotator for verdict in pair.verdicts]) for pair in pairs]


def said_by(person: Person, chosen: str) -> list[tuple[str, list[str]]]:
    return [(chosen, [snapshots.annotator_hash(person.pk)])]


def test_it_works(bob, rita, alice):
    annotation = answered(bob)
    review = Review.approve(annotation, rita)
    assert review.undo(rita) == annotation
    review.refresh_from_db()
    assert (review.decision, review.undone_at is not None) == ("approved", True)
    assert list(Annotation.objects.to_review(alice)) == [annotation]
    again = Review.reject(annotation, rita, "At random.")
    assert list(Review.objects.standing()) == [again]
    assert Review.objects.count() == 2


def test_an_edit_undone_gives_the_answer_back(bob, rita):
    annotation = answered(bob)
    Remark.leave(annotation.pk, {"comment": "Both are short."})
    review = Review.edit(annotation, rita, **OTHER)
    assert exported() == said_by(rita, "I do not know.")
    restored = review.undo(rita)
    annotation.refresh_from_db()
    correction = annotation.superseded_by
    assert (annotation.state, correction.state) == ("superseded", "superseded")
    assert (restored.supersedes, restored.annotator, restored.purpose) == (correction, bob, "work")
    for kept in ("choice", "strength", "slot", "shown_left", "guideline_version", "recorded_at"):
        assert getattr(restored, kept) == getattr(annotation, kept)
    assert restored.remark.comment == "Both are short."
    assert exported() == said_by(bob, "Two years.")
    Review.edit(restored, rita, **OTHER)
    assert exported() == said_by(rita, "I do not know.")


def test_a_rejection_undone_takes_a_free_slot(bob, charlie, rita):
    batch = open_batch(comparisons=1)
    annotation = answered(bob, batch)
    restored = Review.reject(annotation, rita, "At random.").undo(rita)
    annotation.refresh_from_db()
    assert (annotation.state, restored.state, restored.slot) == ("excluded", "recorded", 0)
    assert Comparison.objects.get().open_slots == 0
    assert Annotation.objects.lease_next(charlie, batch) is None
    assert exported() == said_by(bob, "Two years.")
    Review.approve(restored, rita)


def test_a_freed_slot_that_was_drawn_again_stays_with_its_new_holder(bob, charlie, rita):
    batch = open_batch(comparisons=1)
    annotation = answered(bob, batch)
    review = Review.reject(annotation, rita, "At random.")
    Annotation.objects.lease_next(charlie, batch)
    with pytest.raises(WrongState, match="Someone else has been given its place since"):
        review.undo(rita)
    assert Review.objects.standing().get() == review
    assert Annotation.objects.count() == 2


def test_another_free_slot_will_do(bob, charlie, rita):
    batch = open_batch(comparisons=1, overlap=2)
    review = Review.reject(answered(bob, batch), rita, "At random.")
    assert answered(charlie, batch).slot == 0
    assert review.undo(rita).slot == 1


def test_sending_back_can_be_undone_until_the_author_judges_again(bob, rita):
    annotation = answered(bob)
    Review.send_back(annotation, rita, "Again.").undo(rita)
    assert not Review.objects.sent_back_to(bob).exists()
    review = Review.send_back(annotation, rita, "Again.")
    annotation.revise(choice="b", strength="better")
    with pytest.raises(WrongState, match="bob has judged again since"):
        review.undo(rita)
    assert Review.objects.standing().get() == review


def test_what_was_sent_back_and_undone_is_as_old_as_before(bob, rita):
    annotation = answered(bob)
    review = Review.send_back(annotation, rita, "Again.")
    Annotation.objects.update(recorded_at=timezone.now() - timedelta(hours=1))
    annotation.refresh_from_db()
    annotation.refuse_late_revision()
    review.undo(rita)
    with pytest.raises(LeaseLost, match="this one is older"):
        annotation.revise(choice="b", strength="better")


def test_after_ten_minutes_it_stands(bob, rita, settings):
    settings.UNDO_SECONDS = 600
    review = Review.approve(answered(bob), rita)
    Review.objects.update(created_at=timezone.now() - timedelta(seconds=599))
    assert Review.objects.newest_of(rita) == review
    Review.objects.update(created_at=timezone.now() - timedelta(seconds=601))
    review.refresh_from_db()
    assert Review.objects.newest_of(rita) is None
    with pytest.raises(WrongState, match="undone for 10 minutes; this one is older"):
        review.undo(rita)


def test_only_ones_own_decision(bob, rita, alice):
    review = Review.approve(answered(bob), rita)
    with pytest.raises(NotAssigned, match="Only the reviewer who decided"):
        review.undo(alice)
    assert Review.objects.standing().exists()


def test_work_that_was_excluded_meanwhile_stays_out(bob, rita):
    approved, edited = answered(bob), answered(bob, open_batch("safety"), a_safe=True, b_safe=True)
    reviews = [Review.approve(approved, rita), Review.edit(edited, rita, **OTHER)]
    Annotation.objects.exclude_each("at random")
    for review, sentence in zip(reviews, ("decision stays", "can be undone no more"), strict=True):
        with pytest.raises(WrongState, match=f"excluded by now, .*{sentence}"):
            review.undo(rita)
    assert Review.objects.standing().count() == 2


def test_the_same_again_changes_nothing(bob, rita):
    review = Review.edit(answered(bob), rita, **OTHER)
    restored = review.undo(rita)
    before = list(Annotation.objects.order_by("pk").values())
    assert review.undo(rita) == restored
    assert list(Annotation.objects.order_by("pk").values()) == before


def test_a_closed_batch_lets_it_be_undone(bob, rita):
    batch = open_batch(comparisons=2)
    answers = [answered(bob, batch) for _ in range(2)]
    close(batch)
    Review.edit(answers[0], rita, **OTHER).undo(rita)
    Review.reject(answers[1], rita, "At random.").undo(rita)
    assert Annotation.objects.work().filter(annotator=bob).count() == 2


def test_the_database_keeps_one_standing_decision(bob, rita, alice):
    values = {"annotation": answered(bob), "annotator": bob, "decision": "approved"}
    Review.objects.create(reviewer=rita, **values)
    with pytest.raises(IntegrityError), transaction.atomic():
        Review.objects.create(reviewer=alice, **values)
    Review.objects.create(reviewer=alice, undone_at=timezone.now(), **values)


def test_hours_and_shares_count_an_answer_once(bob, rita):
    batch = open_batch(comparisons=2)
    answers = [answered(bob, batch) for _ in range(2)]
    Review.edit(answers[0], rita, **OTHER).undo(rita)
    Review.reject(answers[1], rita, "At random.").undo(rita)
    (figures,) = team.annotator_figures(Annotation.objects.without_corrections())
    assert (figures.name, figures.recorded, figures.hours) == ("bob", 2, 18 / 3600)
    (shares,) = team.review_figures(Annotation.objects.reviewable())
    assert (shares.answers, shares.reviewed) == (2, 0)


@pytest.mark.django_db(transaction=True)
def test_undoing_in_two_tabs_undoes_once():
    bob, rita = Person.objects.create_user("bob"), Person.objects.create_user("rita")
    review = Review.edit(answered(bob), rita, **OTHER)

    def undo(_: int) -> int:
        try:
            return Review.objects.get(pk=review.pk).undo(rita).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(undo, range(4)))) == 1
    assert Annotation.objects.count() == 3


# --- a correction is a decision of the reviewer, not their work -----------------------------------


def test_a_correction_is_the_pair_and_nobodys_progress(bob, rita):
    batch = open_batch(comparisons=1)
    Review.edit(answered(bob, batch), rita, **OTHER)
    assert exported() == said_by(rita, "I do not know.")
    own = Annotation.objects.without_corrections()
    assert [f.recorded for f in team.annotator_figures(own)] == [0]
    assert sum(team.per_day(own, 2).values()) == 0
    assert rita.pk not in quality.quality_by_annotator(own)
    (queue,) = team.queues()
    assert (queue.recorded, queue.wanted, queue.per_hour) == (1, 1, 0)
    assert batch.recorded() == 1


def test_a_correction_is_not_revised_as_if_it_were_ones_own_work(bob, rita):
    annotation = answered(bob)
    Review.edit(annotation, rita, **OTHER)
    correction = Annotation.objects.get(purpose="review")
    with pytest.raises(LeaseLost, match="undo it on the page of its review"):
        correction.revise(choice="a", strength="better")


def test_the_database_knows_every_purpose(bob):
    annotation = answered(bob)
    for purpose in ("qualification", "evaluation", ""):
        with pytest.raises(IntegrityError), transaction.atomic():
            Annotation.objects.filter(pk=annotation.pk).update(purpose=purpose, slot=None)


def test_nobody_speaks_twice_in_one_pair(bob, rita):
    batch = open_batch(overlap=2, comparisons=1)
    annotation = answered(bob, batch)
    answered(rita, batch)
    values = Annotation.objects.filter(annotator=rita).values().get()
    values |= {"id": None, "purpose": "review", "slot": 0}
    Annotation.objects.filter(pk=annotation.pk).update(state="superseded")
    with pytest.raises(IntegrityError, match=r"slot_per_person|comparison_id.*annotator_id"):
        Annotation.objects.create(**values)
