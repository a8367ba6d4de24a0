"""Gates with safety questions: the organisation's warning and veil, and those who decline."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Attempt, Organisation, Person
from annotation_app.models.refusals import NoAttempt
from tests.annotation_app.conftest import read
from tests.annotation_app.qualifications import comparisons, only_gate, publish, quiz
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.test_attempt_page import (
    begin,  # noqa: F401  (a fixture)
    go,  # noqa: F401  (a fixture)
    press,
)

pytestmark = pytest.mark.django_db
WARNING = "These texts may upset you."


@pytest.fixture
def gate(alice):
    return only_gate(publish(alice, comparisons(2, safety=True)))


def question(attempt: Attempt, number: int = 1) -> str:
    return reverse("attempt_question", args=[attempt.pk, number])


def decline(person: Person) -> None:
    Person.objects.filter(pk=person.pk).update(does_safety=False)
    person.refresh_from_db()


def is_veiled(page: str) -> bool:
    return 'class="card-in-view veiled" inert' in page and 'id="veil"' in page


def test_it_works(as_bob, bob, gate):
    Organisation.objects.create(pk=1, safety_warning=WARNING)
    attempt = Attempt.begin(gate, bob)
    page = read(as_bob.get(question(attempt)))
    assert is_veiled(page)
    assert WARNING in page
    assert not is_veiled(read(as_bob.get(question(attempt), {"show": "1"})))
    as_bob.post(question(attempt), {"preference": "left_better", "safe": "both", "go": "next"})
    assert is_veiled(read(as_bob.get(question(attempt, 2))))
    assert not is_veiled(read(as_bob.get(question(attempt))))  # answered, so it was read


def test_a_fault_is_told_beside_the_texts(as_bob, bob, gate):
    answer = as_bob.post(question(Attempt.begin(gate, bob)), {"preference": "left_better"})
    assert answer.status_code == 400
    assert not is_veiled(read(answer))


def test_no_veil_where_the_organisation_wants_none(as_bob, bob, gate):
    Organisation.objects.create(pk=1, safety_is_veiled=False)
    assert not is_veiled(read(as_bob.get(question(Attempt.begin(gate, bob)))))


def test_no_veil_over_what_is_not_safety(as_bob, bob, alice):
    made = only_gate(publish(alice, comparisons(2)))
    assert 'id="veil"' not in read(as_bob.get(question(Attempt.begin(made, bob))))


def test_whoever_declines_safety_work_is_not_asked_to_take_it(as_bob, bob, gate):
    decline(bob)
    with pytest.raises(NoAttempt, match=r"shows safety texts\. You have chosen not"):
        Attempt.begin(gate, bob)
    page = read(as_bob.get(reverse("gate", args=[gate.pk])))
    assert "“Pairs” shows safety texts. You have chosen not to do safety work." in page
    assert "form method" not in page.split("<h1>")[1]
    page = read(as_bob.get(reverse("qualification", args=[gate.qualification_id])))
    assert "It shows safety texts, and you have chosen not to do safety work." in page
    assert "Begin" not in page
    assert "safety texts" in read(as_bob.get(reverse("qualifications")))
    assert as_bob.post(reverse("begin_gate", args=[gate.pk])).status_code == 409
    assert not Attempt.objects.exists()


def test_other_gates_stay_open_to_them(as_bob, bob, alice):
    decline(bob)
    made = publish(alice, quiz(), comparisons(2, safety=True))
    assert Attempt.begin(made.gates.first(), bob).is_running


def test_whoever_declines_on_the_way_sees_no_more_of_it(as_bob, bob, gate):
    attempt = Attempt.begin(gate, bob)
    decline(bob)
    page = read(as_bob.get(question(attempt), {"show": "1"}))
    assert "You have chosen not to do safety work." in page
    assert "Right 0." not in page
    assert "Question 0?" not in page
    assert as_bob.post(question(attempt), {"go": "next"}).url == question(attempt, 2)


@pytest.mark.django_db(transaction=True)
def test_by_keys_as_on_the_judging_page(begin):  # noqa: F811
    page, attempt = begin(comparisons(3, safety=True))
    card = page.locator("#card")
    blurred = "card => getComputedStyle(card).filter.includes('blur')"
    assert card.evaluate(blurred)
    assert violations(page) == []
    press(page, "1", "w", "Enter")
    assert "Read both responses first" in page.locator("#errors").inner_text()
    assert not attempt.answers.given().exists()
    page.set_viewport_size(PHONE)
    assert fits(page)
    assert violations(page) == []
    press(page, "b", "Enter")
    page.wait_for_url("**/questions/2")
    assert attempt.answers.given().count() == 1
    assert card.evaluate(blurred)
    press(page, "Enter")  # nothing chosen: on to the next one, unread
    page.wait_for_url("**/questions/3")
    page.locator("#unveil-all").check()
    page.get_by_role("link", name="Show the texts").click()
    assert not card.evaluate(blurred)
    page.get_by_role("button", name="Previous").click()
    page.wait_for_url("**/questions/2")
    assert not card.evaluate(blurred)
