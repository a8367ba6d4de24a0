"""Grades of writing gates: given once, corrected by a further row until the result is announced."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import IntegrityError, connection, transaction
from django.urls import reverse

from annotation_app.models import Attempt, AttemptAnswer, Grade, Person
from annotation_app.models.refusals import NotAssigned, WrongState
from tests.annotation_app.conftest import read
from tests.annotation_app.qualifications import only_gate, publish, write, writing

pytestmark = pytest.mark.django_db


@pytest.fixture
def sam(db):
    return Person.objects.create_user("sam", role="reviewer")


@pytest.fixture
def texts(alice, bob) -> list[AttemptAnswer]:
    """Two texts of Bob's that wait; a mean of 4 passes."""
    return handed_in(bob, only_gate(publish(alice, writing(2))))


def handed_in(person: Person, gate) -> list[AttemptAnswer]:
    attempt = Attempt.begin(gate, person)
    write(attempt, 2)
    attempt.finish()
    return list(attempt.answers.select_related("attempt__gate__qualification"))


def address(text: AttemptAnswer) -> str:
    return reverse("grade", args=[text.pk])


def test_it_works(texts, rita, sam):
    first, second = texts
    Grade.give(first, 1, rita, "Hm.")
    first.grade.correct(5, sam, "Clear.")
    first = AttemptAnswer.objects.get(pk=first.pk)
    assert (first.grade.value, first.grade.comment, first.grade.graded_by) == (5, "Clear.", sam)
    before = Grade.objects.exclude(superseded_at=None).get()
    assert (before.value, before.comment, before.graded_by) == (1, "Hm.", rita)
    assert list(AttemptAnswer.objects.to_grade(rita)) == [second]
    Grade.give(second, 4, rita)
    attempt = Attempt.objects.get()
    assert (attempt.state, attempt.score) == ("passed", 4.5)


@pytest.mark.parametrize(("given", "instead"), [(5, "can be taken by an adm"), (1, "another att")])
def test_what_is_announced_stands_and_says_what_else_can_be_done(texts, rita, given, instead):
    for text in texts:
        Grade.give(text, given, rita)
    grade = Grade.objects.first()
    with pytest.raises(WrongState, match=rf"announced at .*So the grade stands\. .*{instead}"):
        grade.correct(3, rita)
    assert set(Grade.objects.values_list("value", flat=True)) == {given}


def test_the_same_again_changes_nothing_and_another_is_refused(texts, rita, sam):
    Grade.give(texts[0], 1, rita)
    first = texts[0].grade
    for _ in range(2):
        Grade.objects.get(pk=first.pk).correct(4, rita)
    assert Grade.objects.count() == 2
    with pytest.raises(WrongState, match="graded 4 already; yours was not stored"):
        Grade.objects.get(pk=first.pk).correct(5, sam)


def test_nobody_corrects_a_grade_of_their_own_text(alice, rita, sam):
    text, _ = handed_in(rita, only_gate(publish(alice, writing(2))))
    Grade.give(text, 1, sam)
    with pytest.raises(NotAssigned, match="Nobody grades their own"):
        text.grade.correct(5, rita)
    assert not Grade.objects.not_announced(rita).exists()
    assert Grade.objects.not_announced(sam).count() == 1


def test_the_database_keeps_one_standing_grade_from_1_to_5(texts, rita):
    Grade.give(texts[0], 3, rita)
    for answer, value in ((texts[0], 3), (texts[1], 0), (texts[1], 6)):
        with pytest.raises(IntegrityError), transaction.atomic():
            Grade.objects.create(answer=answer, value=value, graded_by=rita)


@pytest.mark.django_db(transaction=True)
def test_two_corrections_at_once_store_one():
    people = [Person.objects.create_user(f"r{n}", role="reviewer") for n in range(4)]
    alice = Person.objects.create_user("alice", role="researcher")
    bob = Person.objects.create_user("bob")
    text, _ = handed_in(bob, only_gate(publish(alice, writing(2))))
    Grade.give(text, 1, people[0])
    pk = text.grade.pk

    def correct(number: int) -> bool:
        try:
            Grade.objects.get(pk=pk).correct(number + 2, people[number])
        except WrongState:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(correct, range(4))) == 1
    assert Grade.objects.count() == 2


# --- the pages ------------------------------------------------------------------------------------


def test_correcting_through_the_page(as_rita, rita, texts):
    text, other = texts
    as_rita.post(address(text), {"grade": "1", "comment": "Hm."})
    page = read(as_rita.get(reverse("grading")))
    assert "Graded, and not announced yet" in page
    assert f'href="{address(text)}"' in page
    page = read(as_rita.get(address(text)))
    assert "Graded <b>1</b> by rita" in page
    fields = {"grade": "5", "comment": "Clear.", "corrects": Grade.objects.get().pk}
    answer = as_rita.post(address(text), fields, follow=True)
    assert "Corrected: the grade is 5 now." in read(answer)
    page = read(as_rita.get(address(text)))
    assert "Before: graded <b>1</b> by rita" in page
    assert "Graded <b>5</b> by rita" in page
    as_rita.post(address(other), {"grade": "4", "sure": "4"})
    page = read(as_rita.get(address(text)))
    assert "The result is announced, so its grades stand." in page
    assert "<form" not in page.split("<h1>")[1]
    fields["corrects"] = Grade.objects.standing().get(value=5).pk
    answer = as_rita.post(address(text), fields | {"grade": "1"})
    assert answer.status_code == 409
    assert "So the grade stands." in read(answer)
    assert "Graded, and not announced yet" not in read(as_rita.get(reverse("grading")))


def test_the_last_grade_asks_once_more_for_exactly_what_it_showed(as_rita, rita, texts):
    Grade.give(texts[0], 5, rita)
    page = read(as_rita.post(address(texts[1]), {"grade": "1"}))
    assert "which fails with a mean of 3.00" in page
    assert 'name="sure" value="1"' in page
    page = read(as_rita.post(address(texts[1]), {"grade": "4", "sure": "1"}))
    assert "which passes with a mean of 4.50" in page
    assert Attempt.objects.get().state == "waiting"
    as_rita.post(address(texts[1]), {"grade": "4", "sure": "4"})
    assert Attempt.objects.get().state == "passed"


@pytest.mark.parametrize("corrects", ["x", "0", "-1", str(10**30)])
def test_odd_corrections_are_refused(as_rita, rita, texts, corrects):
    Grade.give(texts[0], 1, rita)
    answer = as_rita.post(address(texts[0]), {"grade": "5", "corrects": corrects})
    assert answer.status_code == 400
    assert Grade.objects.get().value == 1


def test_only_a_grade_of_that_text_is_corrected(as_rita, rita, texts):
    Grade.give(texts[0], 1, rita)
    fields = {"grade": "5", "corrects": Grade.objects.get().pk}
    assert as_rita.post(address(texts[1]), fields).status_code == 404
    assert Grade.objects.get().value == 1


def test_the_author_reads_the_grade_that_stands(client, bob, rita, texts):
    Grade.give(texts[0], 1, rita, "Hm.")
    texts[0].grade.correct(5, rita, "Clear.")
    Grade.give(texts[1], 4, rita)
    client.force_login(bob)
    page = read(client.get(reverse("attempt", args=[texts[0].attempt_id])))
    assert "Clear." in page
    assert "Hm." not in page
    assert "rita" not in page
