"""Gates, attempts and grades: who passes, when time is over, and what nobody may do."""

from __future__ import annotations

import threading
from datetime import timedelta
from random import Random

import pytest
from django.db import connection
from django.utils import timezone

from annotation_app import tasks
from annotation_app.models import (
    Annotation,
    Attempt,
    AttemptAnswer,
    Comparison,
    FurtherAttempt,
    Grade,
    Person,
    Qualification,
    Skill,
    leases,
)
from annotation_app.models.refusals import NoAttempt, NotAssigned, TimeOver, WrongState
from tests.annotation_app.qualifications import (
    answer_rightly,
    comparisons,
    only_gate,
    passed,
    publish,
    quiz,
    write,
    writing,
)
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db


@pytest.fixture
def sam(db):
    return Person.objects.create_user("sam", role="reviewer")


def grade(attempt: Attempt, by: Person, *grades: int) -> Attempt:
    for answer, given in zip(attempt.answers.given(), grades, strict=True):
        Grade.give(answer, given, by)
    attempt.refresh_from_db()
    return attempt


def move_end(attempt: Attempt, **ago: int) -> None:
    ends_at = timezone.now() - timedelta(**ago)
    Attempt.objects.filter(pk=attempt.pk).update(ends_at=ends_at)
    attempt.refresh_from_db()


def test_it_works(alice, bob, rita):
    english = publish(alice, quiz(), comparisons(safety=True), writing(ask=2))
    batch = open_batch()
    batch.required_skills.add(english.skill)
    assert leases.lease_next(bob.pk, batch.pk) is None
    sums, pairs, texts = english.gates.all()
    passed(sums, bob)
    passed(pairs, bob)
    attempt = Attempt.begin(texts, bob)
    write(attempt, 2)
    attempt.finish()
    assert attempt.state == "waiting"
    assert leases.lease_next(bob.pk, batch.pk) is None
    grade(attempt, rita, 3, 5)
    assert (attempt.state, attempt.score) == ("passed", 4.0)
    assert list(bob.skills.all()) == [english.skill]
    assert leases.lease_next(bob.pk, batch.pk) is not None


@pytest.mark.parametrize(
    ("questions", "mark", "is_exclusive", "right", "state"),
    [
        (10, 0.9, False, 9, "passed"),
        (10, 0.9, False, 8, "failed"),
        (10, 0.9, True, 9, "failed"),
        (10, 0.9, True, 10, "passed"),
        (31, "26/31", True, 26, "failed"),
        (31, "26/31", True, 27, "passed"),
        (31, "26/31", False, 26, "passed"),
        (42, 0.8, False, 33, "failed"),
        (42, 0.8, False, 34, "passed"),
        (3, 1, False, 3, "passed"),
        (100, 0.07, False, 7, "passed"),
        (100, 0.57, False, 57, "passed"),
        (100, 0.57, True, 57, "failed"),
    ],
)
def test_marks_at_their_edge(alice, bob, questions, mark, is_exclusive, right, state):
    made = quiz(questions, pass_mark=mark, mark_is_exclusive=is_exclusive)
    gate = only_gate(publish(alice, made))
    attempt = Attempt.begin(gate, bob)
    answer_rightly(attempt, right)
    attempt.finish()
    assert (attempt.state, attempt.score) == (state, right / questions)
    needed = int(gate.must.split()[2])
    assert (right >= needed) is (state == "passed")


@pytest.mark.parametrize(
    ("grades", "is_exclusive", "state"),
    [
        ((4, 4, 4), True, "failed"),
        ((3, 4, 5), True, "failed"),
        ((4, 4, 5), True, "passed"),
        ((4, 4, 4), False, "passed"),
        ((3, 4, 4), False, "failed"),
    ],
)
def test_mean_grades_at_their_edge(alice, bob, rita, grades, is_exclusive, state):
    gate = only_gate(publish(alice, writing(mark_is_exclusive=is_exclusive)))
    attempt = Attempt.begin(gate, bob)
    write(attempt, 3)
    attempt.finish()
    assert grade(attempt, rita, *grades).state == state
    assert attempt.score == pytest.approx(sum(grades) / 3)
    assert bob.skills.exists() is (state == "passed")


def test_nothing_answered_is_wrong(alice, bob):
    attempt = Attempt.begin(only_gate(publish(alice, quiz(pass_mark=0.5))), bob)
    attempt.finish()
    assert (attempt.state, attempt.score) == ("failed", 0)


@pytest.mark.parametrize(
    ("given", "agrees"),
    [
        (("a", "better", True, False), True),
        (("a", "significantly_better", True, False), True),
        (("a", "slightly_better", True, False), True),
        (("a", "negligibly_better", True, False), False),
        (("b", "better", True, False), False),
        (("a", "better", True, True), False),
        (("a", "better", False, False), False),
    ],
)
def test_what_agrees_with_a_reference(alice, given, agrees):
    gate = only_gate(publish(alice, comparisons(1, safety=True)))
    assert gate.questions.get().agrees_with(*given) is agrees


def test_a_strength_counts_only_where_the_reference_has_one(alice):
    made = comparisons(1)
    del made["questions"][0]["reference"]["strength"]
    question = only_gate(publish(alice, made)).questions.get()
    assert question.agrees_with("a", "negligibly_better", None, None)
    assert not question.agrees_with("b", "negligibly_better", None, None)


def test_each_attempt_draws_as_many_questions_as_it_asks(alice, bob, charlie):
    gate = only_gate(publish(alice, quiz(30, ask=10)))
    orders = []
    for who in (bob, charlie):
        answers = Attempt.begin(gate, who).answers.all()
        assert [a.position for a in answers] == list(range(1, 11))
        orders.append([a.question_id for a in answers])
        assert len(set(orders[-1])) == 10
    assert orders[0] != orders[1]


def test_the_sides_are_balanced_and_drawn(alice, bob, monkeypatch):
    monkeypatch.setattr("annotation_app.models.attempt.secrets.SystemRandom", lambda: Random(0))
    gate = only_gate(publish(alice, comparisons(20)))
    sides = [a.shown_left for a in Attempt.begin(gate, bob).answers.all()]
    assert sides.count("a") in (9, 10, 11)
    assert "aa" in "".join(sides) or "bb" in "".join(sides)


def test_gates_go_in_order(alice, bob):
    first, second = publish(alice, quiz(), comparisons()).gates.all()
    with pytest.raises(NoAttempt, match="“Pairs” opens when you have passed “Sums”"):
        Attempt.begin(second, bob)
    passed(first, bob)
    assert not bob.skills.exists()
    with pytest.raises(NoAttempt, match="You have passed “Sums”"):
        Attempt.begin(first, bob)
    passed(second, bob)
    assert bob.skills.count() == 1


def test_beginning_twice_is_one_attempt(alice, bob):
    gate = only_gate(publish(alice))
    assert Attempt.begin(gate, bob) == Attempt.begin(gate, bob)
    assert Attempt.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_beginning_in_many_tabs_at_once_is_one_attempt(alice, bob):
    gate, found = only_gate(publish(alice, quiz(most_attempts=5))), []

    def begin():
        try:
            found.append(Attempt.begin(gate, bob).pk)
        finally:
            connection.close()

    tabs = [threading.Thread(target=begin) for _ in range(6)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(found) == 6
    assert len(set(found)) == Attempt.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_last_grades_at_once_still_decide(alice, bob, rita, sam):
    gate = only_gate(publish(alice, writing(6)))
    attempt = Attempt.begin(gate, bob)
    write(attempt, 6)
    attempt.finish()

    def give(answer, by):
        try:
            Grade.give(AttemptAnswer.objects.get(pk=answer.pk), 5, by)
        finally:
            connection.close()

    answers = list(attempt.answers.all())
    graders = [
        threading.Thread(target=give, args=(answer, (rita, sam)[n % 2]))
        for n, answer in enumerate(answers)
    ]
    for grader in graders:
        grader.start()
    for grader in graders:
        grader.join()
    attempt.refresh_from_db()
    assert (attempt.state, attempt.score) == ("passed", 5)
    assert bob.skills.count() == 1


def test_used_up_attempts_and_one_more(alice, bob, rita):
    gate = only_gate(publish(alice, quiz(most_attempts=2)))
    for _ in range(2):
        with pytest.raises(NoAttempt, match="bob has not used and failed every attempt"):
            FurtherAttempt.allow(gate, bob, rita)
        Attempt.begin(gate, bob).finish()
    with pytest.raises(NoAttempt, match="used your 2 attempts at “Sums”; a reviewer may allow"):
        Attempt.begin(gate, bob)
    FurtherAttempt.allow(gate, bob, rita)
    with pytest.raises(NoAttempt, match="has not used"):
        FurtherAttempt.allow(gate, bob, rita)
    assert Attempt.begin(gate, bob).number == 3
    assert FurtherAttempt.objects.get().allowed_by == rita


def test_nobody_allows_themselves(alice, rita):
    gate = only_gate(publish(alice))
    Attempt.begin(gate, rita).finish()
    with pytest.raises(NotAssigned, match="Someone else decides"):
        FurtherAttempt.allow(gate, rita, rita)


def test_no_more_attempts_after_a_pass(alice, bob, rita):
    gate = only_gate(publish(alice))
    passed(gate, bob)
    with pytest.raises(NoAttempt):
        FurtherAttempt.allow(gate, bob, rita)


def test_after_the_end_nothing_is_stored(alice, bob):
    attempt = Attempt.begin(only_gate(publish(alice, quiz(minutes=10, pass_mark=0.3))), bob)
    answer_rightly(attempt, 1)
    stored = list(attempt.answers.values_list("option", flat=True))
    move_end(attempt, seconds=6)
    with pytest.raises(TimeOver, match=r"ended at .* UTC; this answer was not stored"):
        attempt.answer(2, option=1)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.finished_at) == ("passed", attempt.ends_at)
    assert list(attempt.answers.values_list("option", flat=True)) == stored


def test_a_few_seconds_of_grace_for_what_was_on_its_way(alice, bob):
    attempt = Attempt.begin(only_gate(publish(alice, quiz(minutes=10))), bob)
    move_end(attempt, seconds=2)
    attempt.answer(1, option=1)
    assert attempt.answers.given().count() == 1
    attempt.finish()
    assert (attempt.state, attempt.finished_at) == ("failed", attempt.ends_at)


def test_a_finished_attempt_takes_no_answer(alice, bob):
    attempt = Attempt.begin(only_gate(publish(alice)), bob)
    attempt.finish()
    with pytest.raises(TimeOver):
        attempt.answer(1, option=1)
    assert not attempt.answers.given().exists()
    assert attempt.finish() is False


def test_an_attempt_that_nobody_looks_at_is_finished_by_the_periodic_task(alice, bob, charlie):
    gate = only_gate(publish(alice, quiz(minutes=10)))
    over, running = Attempt.begin(gate, bob), Attempt.begin(gate, charlie)
    answer_rightly(over, 3)
    move_end(over, minutes=1)
    tasks.finish_attempts()
    tasks.finish_attempts()
    over.refresh_from_db()
    running.refresh_from_db()
    assert (over.state, running.state) == ("passed", "running")
    assert bob.skills.count() == 1


def test_time_over_is_an_attempt_used(alice, bob):
    gate = only_gate(publish(alice, quiz(minutes=10)))
    move_end(Attempt.begin(gate, bob), minutes=1)
    with pytest.raises(NoAttempt, match="used your attempt at"):
        Attempt.begin(gate, bob)


def test_fewer_texts_than_asked(alice, bob, rita):
    gate = only_gate(publish(alice, writing(4, ask=2, minutes=10)))
    attempt = Attempt.begin(gate, bob)
    attempt.answer(1, text="One.")
    attempt.answer(2, text="Two.")
    attempt.answer(2, text="")
    with pytest.raises(NoAttempt, match="asks for 2 texts at least; you have written 1 so far"):
        attempt.finish()
    assert attempt.state == "running"
    move_end(attempt, seconds=1)
    attempt.finish()
    assert (attempt.state, attempt.score) == ("failed", None)
    assert not AttemptAnswer.objects.to_grade(rita).exists()


def test_a_waiting_attempt_is_not_begun_again(alice, bob):
    gate = only_gate(publish(alice, writing(1, most_attempts=3)))
    attempt = Attempt.begin(gate, bob)
    write(attempt, 1)
    attempt.finish()
    with pytest.raises(NoAttempt, match="A reviewer still grades"):
        Attempt.begin(gate, bob)


def test_reviewers_grade_others_and_once(alice, bob, rita, sam):
    gate = only_gate(publish(alice, writing(1)))
    for who in (bob, rita):
        attempt = Attempt.begin(gate, who)
        write(attempt, 1)
        attempt.finish()
    (text,) = AttemptAnswer.objects.to_grade(rita)
    assert text.attempt.person == bob
    own = AttemptAnswer.objects.get(attempt__person=rita)
    with pytest.raises(NotAssigned, match="Nobody grades their own"):
        Grade.give(own, 5, rita)
    Grade.give(text, 4, rita, "Well done.")
    Grade.give(text, 4, rita, "Again.")
    assert text.grade.comment == "Well done."
    with pytest.raises(WrongState, match="graded 4 already; yours was not stored"):
        Grade.give(text, 1, sam)
    text.refresh_from_db()
    assert (text.grade.value, text.grade.graded_by) == (4, rita)


def test_what_runs_has_no_grade(alice, bob, rita):
    attempt = Attempt.begin(only_gate(publish(alice, writing(1))), bob)
    write(attempt, 1)
    with pytest.raises(WrongState, match="does not wait"):
        Grade.give(attempt.answers.get(), 5, rita)


def test_a_new_document_is_a_new_version(alice, bob, charlie, rita):
    old = publish(alice, quiz(most_attempts=2))
    passed(only_gate(old), bob)
    running = Attempt.begin(only_gate(old), charlie)
    new = publish(alice, quiz(4))
    old.refresh_from_db()
    assert (old.version, old.is_open, new.version, new.is_open) == (1, False, 2, True)
    assert bob.skills.count() == 1
    assert only_gate(old).questions.count() == 3
    with pytest.raises(NoAttempt, match="version 1, is closed"):
        Attempt.begin(only_gate(old), rita)
    answer_rightly(running, 3)
    running.finish()
    assert charlie.skills.count() == 1
    assert Attempt.begin(only_gate(new), bob).number == 1


def test_the_same_document_again_changes_nothing(alice):
    assert publish(alice, quiz(), writing()) == publish(alice, quiz(), writing())
    assert Qualification.objects.count() == 1


def test_a_closed_one_may_come_back_as_a_new_version(alice):
    first = publish(alice)
    first.close()
    with pytest.raises(WrongState, match="nobody begins there any more"):
        first.close()
    assert publish(alice).version == 2


def test_a_skill_of_that_name_is_used(alice):
    skill = Skill.objects.create(name="German")
    assert publish(alice, skill="German").skill == skill


def test_it_can_never_become_work(alice, bob):
    passed(only_gate(publish(alice, comparisons())), bob)
    assert not Comparison.objects.exists()
    assert not Annotation.objects.exists()
