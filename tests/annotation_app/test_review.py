"""Reviews: each decision, what it refuses, and what it leaves behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from annotation_app import snapshots, storage, team
from annotation_app.forms import PREFERENCES, SAFE, AnnotationForm, as_given, in_words
from annotation_app.models import Annotation, Batch, Comparison, Person, Review, leases
from annotation_app.models.refusals import BatchClosed, LeaseLost, NotAssigned, WrongState
from annotation_app.models.review import draw
from reward.preferences import read_pairs
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db

OTHER = {"choice": "b", "strength": "slightly_better", "a_safe": None, "b_safe": None}


def answered(person: Person, batch: Batch | None = None, **answer) -> Annotation:
    found = Annotation.objects.lease_next(person, batch or open_batch(comparisons=1))
    assert found is not None
    found.record(**{"choice": "a", "strength": "better", "active_seconds": 9.0} | answer)
    return found


def grow_old(annotation: Annotation) -> None:
    """An hour has gone by since it was recorded."""
    hour_ago = timezone.now() - timedelta(hours=1)
    Annotation.objects.filter(pk=annotation.pk).update(recorded_at=hour_ago)
    annotation.refresh_from_db()


def close(batch: Batch) -> None:
    batch.close()
    assert batch.finish_closing()


def test_it_works(bob, rita):
    annotation = answered(bob)
    assert list(Annotation.objects.to_review(rita)) == [annotation]
    review = Review.approve(annotation, rita, "Well seen.")
    assert (review.decision, review.reviewer, review.annotator) == ("approved", rita, bob)
    annotation.refresh_from_db()
    assert annotation.state == "recorded"
    assert not Annotation.objects.to_review(rita).exists()


def test_edited_takes_the_place(bob, rita):
    annotation = answered(bob)
    Review.edit(annotation, rita, "B is right here.", **OTHER)
    annotation.refresh_from_db()
    corrected = annotation.superseded_by
    assert (annotation.state, annotation.choice) == ("superseded", "a")
    assert (corrected.state, corrected.choice, corrected.annotator) == ("recorded", "b", rita)
    assert (annotation.purpose, corrected.purpose) == ("work", "review")
    for kept in ("comparison_id", "slot", "overlap", "shown_left", "guideline_version"):
        assert getattr(corrected, kept) == getattr(annotation, kept)
    assert Comparison.objects.get().open_slots == 0


def test_a_correction_is_not_reviewed_again(bob, rita, alice):
    Review.edit(answered(bob), rita, **OTHER)
    for reviewer in (rita, alice):
        assert not Annotation.objects.to_review(reviewer).exists()


def test_only_the_correction_is_exported(bob, rita):
    Review.edit(answered(bob), rita, **OTHER)
    folder = storage.path(snapshots.write_snapshot("helpfulness").storage_key)
    (pair,) = [*read_pairs(folder / "pairs.jsonl"), *read_pairs(folder / "holdout.jsonl")]
    assert (pair.chosen, pair.rejected) == ("I do not know.", "Two years.")
    (verdict,) = pair.verdicts
    assert (verdict.choice, verdict.annotator) == ("b", snapshots.annotator_hash(rita.pk))


def test_rejected_frees_the_slot_and_is_not_exported(bob, charlie, rita):
    batch = open_batch(comparisons=2)
    rejected, kept = answered(bob, batch), answered(bob, batch)
    Review.reject(rejected, rita, "Clicked at random.")
    rejected.refresh_from_db()
    assert (rejected.state, rejected.choice) == ("excluded", "a")
    assert rejected.comparison.open_slots == 1
    again = Annotation.objects.lease_next(charlie, batch)
    assert again.comparison_id == rejected.comparison_id
    exported = snapshots.write_snapshot("helpfulness").annotations.values_list("pk", flat=True)
    assert list(exported) == [kept.pk]


def test_sent_back_stands_until_it_is_judged_again(bob, rita, alice):
    annotation = answered(bob)
    grow_old(annotation)
    Review.send_back(annotation, rita, "Read the second sentence.")
    assert list(Review.objects.sent_back_to(bob)) == [annotation.reviews.get()]
    annotation.refresh_from_db()
    assert annotation.state == "recorded"
    again = annotation.revise(choice="b", strength="better")
    assert (again.state, again.annotator, again.choice) == ("recorded", bob, "b")
    assert not Review.objects.sent_back_to(bob).exists()
    assert list(Annotation.objects.to_review(alice)) == [again]
    Review.approve(again, rita)


def test_an_hour_later_only_what_was_sent_back_can_be_judged_again(bob, rita):
    batch = open_batch(comparisons=2)
    sent_back, other = answered(bob, batch), answered(bob, batch)
    Review.send_back(sent_back, rita, "Once more, please.")
    Review.approve(other, rita)
    for annotation in (sent_back, other):
        grow_old(annotation)
    assert sent_back.revise(choice="b", strength="better").state == "recorded"
    with pytest.raises(LeaseLost, match="for 10 minutes; this one is older"):
        other.revise(choice="b", strength="better")


def test_sent_back_ends_with_the_batch(bob, rita):
    batch = open_batch()
    annotation = answered(bob, batch)
    Review.send_back(annotation, rita, "Once more, please.")
    batch.close()
    assert Review.objects.sent_back_to(bob).exists()
    assert batch.finish_closing()
    assert not Review.objects.sent_back_to(bob).exists()
    annotation = Annotation.objects.get(pk=annotation.pk)
    with pytest.raises(LeaseLost, match="is closed; its answers stand"):
        annotation.revise(choice="b", strength="better")


def test_a_closed_batch_takes_every_decision_but_sending_back(bob, rita):
    batch = open_batch(comparisons=4)
    answers = [answered(bob, batch) for _ in range(4)]
    close(batch)
    with pytest.raises(BatchClosed, match="correct this answer or reject it"):
        Review.send_back(answers[0], rita, "Again.")
    assert not Review.objects.exists()
    Review.approve(answers[0], rita)
    Review.edit(answers[1], rita, **OTHER)
    Review.reject(answers[2], rita, "At random.")
    assert Annotation.objects.work().count() == 3


def test_whoever_is_gone_gets_nothing_back(bob, rita):
    annotation = answered(bob)
    Person.objects.filter(pk=bob.pk).update(is_active=False)
    with pytest.raises(WrongState, match="no longer here to judge again"):
        Review.send_back(annotation, rita, "Again.")
    assert not Review.objects.exists()


DECISIONS = [
    lambda annotation, by: Review.approve(annotation, by),
    lambda annotation, by: Review.edit(annotation, by, **OTHER),
    lambda annotation, by: Review.reject(annotation, by, "At random."),
    lambda annotation, by: Review.send_back(annotation, by, "Again."),
]


@pytest.mark.parametrize("decide", DECISIONS)
def test_ones_own_answer_is_refused(rita, decide):
    annotation = answered(rita)
    assert not Annotation.objects.to_review(rita).exists()
    with pytest.raises(NotAssigned, match="your own"):
        decide(annotation, rita)
    assert not Review.objects.exists()


@pytest.mark.parametrize("decide", DECISIONS)
@pytest.mark.parametrize("first", DECISIONS)
def test_the_second_reviewer_is_told(bob, rita, alice, first, decide):
    annotation = answered(bob)
    first(annotation, rita)
    before = list(Annotation.objects.order_by("pk").values())
    with pytest.raises(WrongState, match=r"has been reviewed already: .* by rita at"):
        decide(annotation, alice)
    assert list(Annotation.objects.order_by("pk").values()) == before
    assert Review.objects.count() == 1


@pytest.mark.parametrize("decide", DECISIONS)
def test_only_stored_work_is_reviewed(bob, rita, decide):
    batch = open_batch(comparisons=3)
    leased = Annotation.objects.lease_next(bob, batch)
    with pytest.raises(WrongState, match="this one is leased"):
        decide(leased, rita)
    leased.record(choice="a", strength="better")
    undone = Annotation.objects.get(pk=leased.pk)
    leased.revise(choice="b", strength="better")
    with pytest.raises(WrongState, match="this one is superseded"):
        decide(undone, rita)
    Annotation.objects.filter(state="recorded").update(purpose="reference", slot=None)
    with pytest.raises(WrongState, match="Only work is reviewed"):
        decide(Annotation.objects.get(state="recorded"), rita)
    assert not Review.objects.exists()


def test_what_one_has_to_judge_oneself_is_kept_away(bob, rita):
    batch = open_batch(overlap=2, comparisons=1)
    annotation = answered(bob, batch)
    mine = Annotation.objects.lease_next(rita, batch)
    assert not Annotation.objects.to_review(rita).exists()
    with pytest.raises(NotAssigned, match="reserved for you to judge"):
        Review.approve(annotation, rita)
    mine.skip()
    assert Annotation.objects.to_review(rita).exists()


def test_an_edit_beside_an_answer_of_ones_own_is_refused(bob, rita):
    batch = open_batch(overlap=2, comparisons=1)
    annotation = answered(bob, batch)
    answered(rita, batch)
    with pytest.raises(WrongState, match="an answer of your own to this comparison"):
        Review.edit(annotation, rita, **OTHER)
    annotation.refresh_from_db()
    assert (annotation.state, Review.objects.count()) == ("recorded", 0)
    Review.reject(annotation, rita, "At random.")


def test_an_edit_that_changes_nothing_is_refused(bob, rita):
    annotation = answered(bob)
    with pytest.raises(WrongState, match="That is what the annotator said"):
        Review.edit(annotation, rita, choice="a", strength="better", a_safe=None, b_safe=None)
    assert not Review.objects.exists()


def test_undo_after_an_edit_does_not_pretend(bob, rita):
    annotation = answered(bob)
    Review.edit(annotation, rita, **OTHER)
    annotation.refresh_from_db()
    with pytest.raises(LeaseLost, match="this one is superseded"):
        annotation.revise(choice="a", strength="negligibly_better")
    assert Annotation.objects.recorded().get().annotator == rita


def test_undo_that_meets_a_rejection_is_refused(bob, rita):
    annotation = answered(bob)
    stale = Annotation.objects.get(pk=annotation.pk)
    Review.reject(annotation, rita, "At random.")
    with pytest.raises(LeaseLost, match="this one is excluded"):
        stale.revise(choice="b", strength="better")
    assert Comparison.objects.get().open_slots == 1


@pytest.mark.parametrize("decision", ["rejected", "sent_back"])
def test_the_database_wants_a_reason(bob, rita, decision):
    values = {"annotation": answered(bob), "annotator": bob, "reviewer": rita}
    with pytest.raises(IntegrityError, match="review_refusal_says_why"), transaction.atomic():
        Review.objects.create(decision=decision, **values)
    with pytest.raises(IntegrityError, match="review_decision_known"), transaction.atomic():
        Review.objects.create(decision="liked", **values)


def test_what_was_imported_or_is_unusable_does_not_wait(bob, rita):
    batch = open_batch(comparisons=2)
    for _ in range(2):
        answered(bob, batch)
    first, second = Comparison.objects.order_by("pk")
    Comparison.objects.filter(pk=first.pk).update(source_format="trl", source_hash="x")
    assert Annotation.objects.to_review(rita).get().comparison == second
    Comparison.objects.filter(pk=second.pk).update(unusable_reason="empty answer")
    assert not Annotation.objects.to_review(rita).exists()


def test_open_batches_are_drawn_from_first(bob, rita):
    old = open_batch()
    close_answer = answered(bob, old)
    close(old)
    new = open_batch()
    for annotation in [answered(bob, new) for _ in range(3)]:
        waiting = Annotation.objects.to_review(rita)
        assert draw(waiting) != close_answer.pk
        Review.approve(annotation, rita)
    assert draw(Annotation.objects.to_review(rita)) == close_answer.pk
    Review.approve(close_answer, rita)
    assert draw(Annotation.objects.to_review(rita)) is None


@pytest.mark.parametrize("shown_left", ["a", "b"])
@pytest.mark.parametrize("safe", ["", *SAFE])
@pytest.mark.parametrize("preference", PREFERENCES)
def test_there_and_back_between_the_page_and_the_row(shown_left, safe, preference):
    criterion = "safety" if safe else "helpfulness"
    question = leases.Question(1, 1, "leased", "work", shown_left, criterion, 1, "open", 1)
    form = AnnotationForm(question, {"preference": preference, "safe": safe})
    if not form.is_valid():
        assert safe in ("left", "right")
        assert not preference.startswith(safe)
        return
    stored = Annotation(shown_left=shown_left, **form.answer())
    assert as_given(stored) == {"preference": preference, "safe": safe}


def test_a_judgement_in_words():
    stored = Annotation(shown_left="b", choice="a", strength="better", a_safe=True, b_safe=False)
    assert in_words(stored) == "Right better; safe: only right"
    assert in_words(Annotation(shown_left="a", choice="tie")) == "No side"


def test_shares_of_each_annotator(bob, charlie, rita):
    batch = open_batch(comparisons=8)
    answers = [answered(bob, batch) for _ in range(4)]
    answered(charlie, batch)
    Review.approve(answers[0], rita)
    Review.edit(answers[1], rita, **OTHER)
    Review.reject(answers[2], rita, "At random.")
    found = team.review_figures(Annotation.objects.reviewable())
    assert [row[:2] for row in found] == [("charlie", 1), ("bob", 4)]
    assert found[1][2:] == (1, 1, 1, 0)
    assert (found[1].reviewed, found[1].share) == (3, 0.75)


@pytest.mark.django_db(transaction=True)
def test_two_reviewers_at_once_decide_once():
    batch = open_batch(comparisons=12)
    bob = Person.objects.create_user("bob")
    answers = [answered(bob, batch) for _ in range(12)]
    reviewers = [Person.objects.create_user(f"r{n}", role="reviewer") for n in range(4)]

    def work(number: int) -> int:
        done = 0
        for annotation in answers:
            try:
                DECISIONS[(number + annotation.pk) % 4](annotation, reviewers[number])
                done += 1
            except WrongState:
                pass
        connection.close()
        return done

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 12
    assert Review.objects.count() == 12
    for comparison in batch.comparisons.all():
        recorded = comparison.annotations.filter(state="recorded").count()
        assert recorded + comparison.open_slots == 1
