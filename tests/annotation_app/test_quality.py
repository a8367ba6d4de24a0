"""Skill, self-agreement and left-bias of each annotator, and the pause that follows from them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from annotation_app import quality, tasks
from annotation_app.models import Annotation, Batch, Organisation, Reference
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db


def answered(who, batch, answers: str, purpose: str = "work", shown_left: str = "ab") -> None:
    """Recorded rows, an answer to each comparison of the batch, sides by turns."""
    now = timezone.now()
    Annotation.objects.bulk_create(
        Annotation(
            comparison=comparison, batch=batch, annotator=who, purpose=purpose, choice=choice,
            slot=0 if purpose == "work" else None, state="recorded", strength="better",
            shown_left=shown_left[number % len(shown_left)], leased_at=now, lease_expires_at=now,
            recorded_at=now,
        )
        for number, (comparison, choice) in enumerate(
            zip(batch.comparisons.order_by("pk"), answers, strict=True)
        )
    )  # fmt: skip


def references(alice, answers: str) -> Batch:
    batch = open_batch(comparisons=len(answers))
    for comparison, choice in zip(batch.comparisons.order_by("pk"), answers, strict=True):
        Reference.set(comparison, choice, "Plainly.", by=alice)
    return batch


def found(who) -> quality.Quality:
    return quality.quality_by_annotator(Annotation.objects.all())[who.pk]


def test_skill_is_the_share_answered_as_expected(bob, alice):
    answered(bob, references(alice, "aabb"), "aaba", "reference")
    skill = found(bob).skill
    assert (skill.share, skill.total) == (0.75, 4)
    assert skill.low == pytest.approx(0.3006, abs=1e-4)  # Wilson's, 3 of 4
    assert skill.high == pytest.approx(0.9544, abs=1e-4)


def test_work_on_a_reference_says_nothing_about_skill(bob, alice):
    answered(bob, references(alice, "aabb"), "aaba")
    assert found(bob).skill.total == 0


def test_self_agreement_is_of_the_response_not_of_the_side(bob):
    batch = open_batch(comparisons=4)
    answered(bob, batch, "abab", shown_left="a")
    answered(bob, batch, "abaa", "re-serve", shown_left="b")
    assert found(bob).self_agreement[:1] + found(bob).self_agreement[3:] == (0.75, 4)


def test_one_persons_re_serve_is_held_against_their_own_answer(bob, charlie):
    batch = open_batch(comparisons=2, overlap=2)
    answered(bob, batch, "aa")
    answered(charlie, batch, "bb", "re-serve")
    assert found(charlie).self_agreement.total == 0


def test_left_bias(bob):
    answered(bob, open_batch(comparisons=4), "aaab", shown_left="a")
    assert found(bob).left[:1] + found(bob).left[3:] == (0.75, 4)


@pytest.mark.parametrize(
    ("skill", "again", "left", "sentence"),
    [
        ((9, 20), (0, 0), (10, 20), "Of comparisons with a known answer you answered as"),
        ((0, 0), (8, 20), (10, 20), "Of comparisons that you had judged before you chose the"),
        ((0, 0), (0, 0), (99, 100), "You preferred the left response in 99% of 100"),
        ((0, 0), (0, 0), (1, 100), "You preferred the left response in 1% of 100"),
        ((16, 20), (17, 20), (60, 100), ""),
        ((3, 11), (3, 11), (11, 11), ""),  # too few
        ((12, 20), (0, 0), (10, 20), ""),  # 0.6, but its interval reaches 0.78
    ],
)
def test_a_pause_needs_the_whole_interval_beyond_the_mark(skill, again, left, sentence):
    figures = quality.Quality(*(quality.Share.of(*pair) for pair in (skill, again, left)))
    reason = quality.why_pause(figures, Organisation())
    assert reason.startswith(sentence)
    assert bool(reason) == bool(sentence)


def test_who_clicks_at_random_is_paused_with_the_reason(bob, charlie, alice):
    batch = references(alice, "ab" * 15)
    answered(bob, batch, "ab" * 6 + "aabb" * 4 + "ba", "reference")
    answered(charlie, batch, "ab" * 15, "reference", shown_left="aabb")
    Annotation.objects.filter(annotator=bob).update(choice="a")  # half of them
    tasks.pause_annotators()
    bob.refresh_from_db(), charlie.refresh_from_db()
    assert bob.paused_reason.startswith("Of comparisons with a known answer you answered as")
    assert "50% of 30" in bob.paused_reason
    assert charlie.paused_reason == ""


def test_an_ended_pause_counts_anew(bob, alice):
    answered(bob, references(alice, "ab" * 15), "a" * 30, "reference")
    tasks.pause_annotators()
    bob.refresh_from_db()
    assert bob.paused_reason
    bob.resume()
    tasks.pause_annotators()
    bob.refresh_from_db()
    assert bob.paused_reason == ""


def test_the_organisation_may_switch_it_off(bob, alice):
    Organisation.objects.create(pk=1, pauses_by_itself=False)
    answered(bob, references(alice, "ab" * 15), "a" * 30, "reference")
    tasks.pause_annotators()
    bob.refresh_from_db()
    assert bob.paused_reason == ""


def test_months_old_answers_pause_nobody(bob, alice):
    answered(bob, references(alice, "ab" * 15), "a" * 30, "reference")
    old = timezone.now() - timedelta(days=60)
    Annotation.objects.exclude(pk=Annotation.objects.first().pk).update(leased_at=old)
    tasks.pause_annotators()
    bob.refresh_from_db()
    assert bob.paused_reason == ""


def test_one_query_for_everyone(bob, charlie, alice, django_assert_num_queries):
    batch = references(alice, "ab")
    answered(bob, batch, "ab", "reference")
    answered(charlie, batch, "ba", "reference")
    with django_assert_num_queries(1):
        assert len(quality.quality_by_annotator(Annotation.objects.all())) == 2
