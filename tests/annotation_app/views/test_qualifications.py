"""/qualifications: what each role sees, sends, and is refused."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import (
    Attempt,
    AttemptAnswer,
    Gate,
    GateQuestion,
    Person,
    Skill,
)
from tests.annotation_app.qualifications import (
    comparisons,
    only_gate,
    passed,
    publish,
    quiz,
    write,
    writing,
)
from tests.annotation_app.rows import open_batch
from tests.annotation_app.views.conftest import text

pytestmark = pytest.mark.django_db
LIST = reverse("qualifications")
NEW = reverse("new_qualification")
GRADING = reverse("grading")


def post(client, attempt: Attempt, number: int, **fields):
    return client.post(reverse("attempt_question", args=[attempt.pk, number]), fields)


def begun(client, gate: Gate) -> Attempt:
    client.post(reverse("begin_gate", args=[gate.pk]))
    return Attempt.objects.get(gate=gate, person=client.session["_auth_user_id"])


def waiting_text(person: Person, gate: Gate) -> AttemptAnswer:
    attempt = Attempt.begin(gate, person)
    write(attempt, gate.ask)
    attempt.finish()
    return attempt.answers.first()


def test_it_works(as_bob, bob, alice):
    gate = only_gate(publish(alice, quiz(2, minutes=10, pass_mark=0.5)))
    assert "0 of 1 gate passed" in text(as_bob.get(LIST))
    assert "Begin" in text(as_bob.get(reverse("qualification", args=[gate.qualification_id])))
    before = text(as_bob.get(reverse("gate", args=[gate.pk])))
    assert "Start the clock: 10 min" in before
    assert "at least 1 of 2 right" in before
    assert not Attempt.objects.exists()
    attempt = begun(as_bob, gate)
    assert as_bob.get(reverse("attempt", args=[attempt.pk])).url.endswith("/questions/1")
    right = attempt.answers.get(position=1).question.answer
    assert post(as_bob, attempt, 1, option=right, go="next").url.endswith("/questions/2")
    assert as_bob.get(reverse("attempt", args=[attempt.pk])).url.endswith("/questions/2")
    assert post(as_bob, attempt, 2, go="finish").url.endswith("/finish")
    page = text(as_bob.get(reverse("finish_attempt", args=[attempt.pk])))
    assert "1 of 2 questions has no answer yet" in page
    as_bob.post(reverse("finish_attempt", args=[attempt.pk]))
    page = text(as_bob.get(reverse("attempt", args=[attempt.pk])))
    assert "passed" in page
    assert "1 of 2 right" in page
    assert list(bob.skills.all()) == [gate.qualification.skill]
    assert "which you have" in text(as_bob.get(LIST))


def test_nothing_here_says_so(client, bob, alice):
    client.force_login(bob)
    assert "A batch that asks for a skill says so" in text(client.get(LIST))
    client.force_login(alice)
    assert "make the first one" in text(client.get(LIST))


def test_the_refusal_of_work_leads_to_the_qualification(as_bob, alice):
    made = publish(alice)
    batch = open_batch()
    batch.required_skills.add(made.skill, Skill.objects.create(name="French"))
    page = text(as_bob.get(reverse("annotate_next", args=["helpfulness"])))
    assert "This batch asks for what you do not have yet: English, French." in page
    assert f'href="{reverse("qualification", args=[made.pk])}"' in page
    made.close()
    page = text(as_bob.get(reverse("annotate_next", args=["helpfulness"])))
    assert reverse("qualification", args=[made.pk]) not in page


@pytest.mark.parametrize("shown_left", ["a", "b"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_was_shown_and_pressed_is_what_is_stored(as_bob, alice, shown_left, side):
    attempt = begun(as_bob, only_gate(publish(alice, comparisons(1, safety=True))))
    AttemptAnswer.objects.update(shown_left=shown_left)
    page = reverse("attempt_question", args=[attempt.pk, 1])
    found = re.findall(
        r"(Left|Right) response</h2><div class=\"text\"><p>(\w+) ", text(as_bob.get(page))
    )
    assert dict(found) == (
        {"Left": "Right", "Right": "Wrong"}
        if shown_left == "a"
        else {"Left": "Wrong", "Right": "Right"}
    )
    post(as_bob, attempt, 1, preference=f"{side}_better", safe=side, go="next")
    answer = attempt.answers.get()
    chose_right = dict(found)[side.capitalize()] == "Right"
    assert answer.choice == ("a" if chose_right else "b")
    assert (answer.a_safe, answer.b_safe) == ((True, False) if chose_right else (False, True))
    assert answer.is_right is chose_right
    again = text(as_bob.get(page))
    checked = set(re.findall(r'value="(\w+)" data-action="\w+" checked', again))
    assert checked == {f"{side}_better", side}


def test_references_are_in_no_page_of_an_attempt(as_bob, alice):
    """Two gates that differ in their references only give the same pages, byte for byte."""
    made = publish(alice, quiz(2, pass_mark=0.4, most_attempts=2), comparisons(2, safety=True))

    def pages(gate: Gate, attempt: Attempt) -> list[str]:
        addresses = [
            reverse("gate", args=[gate.pk]),
            *(reverse("attempt_question", args=[attempt.pk, n]) for n in (1, 2)),
            reverse("finish_attempt", args=[attempt.pk]),
            reverse("qualification", args=[made.pk]),
            LIST,
        ]
        found = [text(as_bob.get(address)) for address in addresses]
        return [
            re.sub(r'csrfmiddlewaretoken" value="\w+"|seconds-left="[\d.]+"', "", page)
            for page in found
        ]

    first, second = made.gates.all()
    attempt = begun(as_bob, first)
    before = pages(first, attempt)
    GateQuestion.objects.filter(gate=first).update(answer=0)
    assert pages(first, attempt) == before
    GateQuestion.objects.filter(gate=first).update(answer=1)
    for number in (1, 2):
        post(as_bob, attempt, number, option=1, go="next")
    as_bob.post(reverse("finish_attempt", args=[attempt.pk]))
    attempt = begun(as_bob, second)
    before = pages(second, attempt)
    assert "Right 0." in "".join(before)
    GateQuestion.objects.filter(gate=second).update(
        choice="b", strength="slightly_better", a_safe=False, b_safe=True
    )
    assert pages(second, attempt) == before


@pytest.mark.parametrize(("attempts", "is_told"), [(2, False), (1, True)])
def test_right_and_wrong_by_question_only_when_nothing_can_be_tried(
    as_bob, alice, attempts, is_told
):
    attempt = begun(as_bob, only_gate(publish(alice, quiz(2, most_attempts=attempts))))
    post(as_bob, attempt, 1, option=1, go="next")
    as_bob.post(reverse("finish_attempt", args=[attempt.pk]))
    page = text(as_bob.get(reverse("attempt", args=[attempt.pk])))
    assert "1 of 2 right" in page
    assert (">right<" in page) is (">wrong<" in page) is is_told
    assert ("told when you have passed or used every attempt" in page) is not is_told


def test_others_attempts_are_not_there(client, bob, charlie, alice):
    attempt = Attempt.begin(only_gate(publish(alice)), bob)
    client.force_login(charlie)
    for name, more in (("attempt", []), ("attempt_question", [1]), ("finish_attempt", [])):
        assert client.get(reverse(name, args=[attempt.pk, *more])).status_code == 404
    assert post(client, attempt, 1, option=1, go="next").status_code == 404
    assert client.post(reverse("finish_attempt", args=[attempt.pk])).status_code == 404
    assert not attempt.answers.given().exists()
    attempt.refresh_from_db()
    assert attempt.state == "running"


def test_two_tabs_begin_one_attempt(as_bob, alice):
    gate = only_gate(publish(alice))
    first = as_bob.post(reverse("begin_gate", args=[gate.pk])).url
    assert as_bob.post(reverse("begin_gate", args=[gate.pk])).url == first
    assert Attempt.objects.count() == 1


def test_used_up_says_so_before_and_after_the_button(as_bob, alice):
    gate = only_gate(publish(alice))
    attempt = begun(as_bob, gate)
    as_bob.post(reverse("finish_attempt", args=[attempt.pk]))
    sentence = "You have used your attempt at “Sums”; a reviewer may allow another."
    assert sentence in text(as_bob.get(reverse("gate", args=[gate.pk])))
    answer = as_bob.post(reverse("begin_gate", args=[gate.pk]))
    assert (answer.status_code, sentence in text(answer)) == (409, True)


def test_answers_after_the_end_are_refused(as_bob, alice):
    attempt = begun(as_bob, only_gate(publish(alice, quiz(minutes=5))))
    Attempt.objects.update(ends_at=timezone.now() - timedelta(minutes=1))
    answer = as_bob.post(
        reverse("attempt_question", args=[attempt.pk, 1]), {"option": 1, "go": "next"}, follow=True
    )
    assert "this answer was not stored" in text(answer)
    assert "Sums: failed" in text(answer)
    assert not attempt.answers.given().exists()


def test_what_the_page_sends_as_time_ends_is_stored(as_bob, alice):
    attempt = begun(as_bob, only_gate(publish(alice, quiz(1, minutes=5))))
    Attempt.objects.update(ends_at=timezone.now() - timedelta(seconds=1))
    answer = post(as_bob, attempt, 1, option=1, go="over")
    assert answer.url == reverse("attempt", args=[attempt.pk])
    attempt.refresh_from_db()
    assert attempt.state == "passed"


def test_over_is_not_believed_before_the_time(as_bob, alice):
    attempt = begun(as_bob, only_gate(publish(alice, quiz(1, minutes=5))))
    post(as_bob, attempt, 1, option=1, go="over")
    attempt.refresh_from_db()
    assert attempt.state == "running"


@pytest.mark.parametrize(
    ("made", "fields", "sentence"),
    [
        (quiz(2), {"option": "7"}, "Select a valid choice"),
        (quiz(2), {"option": "x" * 9_000}, "Select a valid choice"),
        (comparisons(2), {"preference": "a_better"}, "Select a valid choice"),
        (comparisons(2, safety=True), {"preference": "left_better"}, "Say which of the two"),
        (comparisons(2, safety=True), {"safe": "both"}, "Choose which response is better"),
        (
            comparisons(2, safety=True),
            {"preference": "left_better", "safe": "right"},
            "marked unsafe and the other one safe",
        ),
        (writing(2), {"text": "x" * 20_001}, "at most 20000 characters"),
        (writing(2), {"text": "a\0b"}, "Null characters are not allowed"),
    ],
)
def test_odd_answers_stay_with_a_sentence(as_bob, alice, made, fields, sentence):
    attempt = begun(as_bob, only_gate(publish(alice, made)))
    answer = post(as_bob, attempt, 1, **fields, go="next")
    assert answer.status_code == 400
    assert sentence in text(answer)
    assert not attempt.answers.given().exists()


def test_nothing_chosen_goes_on(as_bob, alice):
    attempt = begun(as_bob, only_gate(publish(alice, quiz(3))))
    assert post(as_bob, attempt, 2, go="next").url.endswith("/questions/3")
    assert post(as_bob, attempt, 2, go="previous").url.endswith("/questions/1")
    assert post(as_bob, attempt, 3, go="next").url.endswith("/finish")
    assert post(as_bob, attempt, 3, go="<b>").url.endswith("/questions/3")
    assert post(as_bob, attempt, 4, go="next").status_code == 404
    assert not attempt.answers.given().exists()


def test_looking_changes_nothing(as_bob, alice):
    gate = only_gate(publish(alice, quiz(2)))
    attempt = begun(as_bob, gate)
    for address in (
        reverse("begin_gate", args=[gate.pk]),
        reverse("finish_attempt", args=[attempt.pk]),
        reverse("attempt_question", args=[attempt.pk, 1]) + "?option=1&go=finish",
    ):
        as_bob.get(address)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.answers.given().count()) == ("running", 0)


def test_waiting_says_who_decides(as_bob, alice):
    attempt = begun(as_bob, only_gate(publish(alice, writing(2, ask=1))))
    post(as_bob, attempt, 1, text="  My *text*.  ", go="next")
    as_bob.post(reverse("finish_attempt", args=[attempt.pk]))
    page = text(as_bob.get(reverse("attempt", args=[attempt.pk])))
    assert "A reviewer grades your writing." in page
    assert "My *text*." in page


def test_too_few_texts_are_refused(as_bob, alice):
    attempt = begun(as_bob, only_gate(publish(alice, writing(3, ask=2))))
    page = text(as_bob.get(reverse("finish_attempt", args=[attempt.pk])))
    assert "2 more to write." in page
    assert "Finish now" not in page
    answer = as_bob.post(reverse("finish_attempt", args=[attempt.pk]))
    assert answer.status_code == 409
    assert "you have written 0 so far" in text(answer)


def test_a_text_is_stored_while_it_is_written(as_bob, alice):
    attempt = begun(as_bob, only_gate(publish(alice, writing(2, minutes=5))))
    address, json_please = (
        reverse("attempt_question", args=[attempt.pk, 1]),
        {"Accept": "application/json"},
    )
    answer = as_bob.post(address, {"text": "Half a"}, headers=json_please)
    assert answer.json()["saved"].startswith("Saved ")
    assert attempt.answers.get(position=1).text == "Half a"
    Attempt.objects.update(ends_at=timezone.now() - timedelta(minutes=1))
    answer = as_bob.post(address, {"text": "Half a text"}, headers=json_please)
    assert answer.status_code == 409
    assert "not stored" in answer.json()["errors"][0]
    assert attempt.answers.get(position=1).text == "Half a"


def test_pages_cost_the_same_for_any_number(
    client, alice, bob, rita, django_assert_max_num_queries
):
    made = publish(alice, quiz(20), comparisons(20), writing(4, ask=2))
    for n in range(5):
        publish(alice, quiz(1), skill=f"Skill {n}")
    for n in range(6):
        who = Person.objects.create_user(f"p{n}")
        first, second, third = made.gates.all()
        passed(first, who)
        passed(second, who)
        waiting_text(who, third)
    client.force_login(Person.objects.get(username="p0"))
    mine = Attempt.objects.filter(person__username="p0").order_by("pk").first()
    with django_assert_max_num_queries(8):
        client.get(LIST)
    with django_assert_max_num_queries(9):
        client.get(reverse("qualification", args=[made.pk]))
    with django_assert_max_num_queries(5):
        client.get(reverse("attempt", args=[mine.pk]))
    client.force_login(bob)
    running = begun(client, made.gates.first())
    with django_assert_max_num_queries(8):
        client.get(reverse("attempt_question", args=[running.pk, 7]))
    with django_assert_max_num_queries(10):  # savepoint, lock, update; then where to go
        post(client, running, 7, option=1, go="next")
    client.force_login(rita)
    with django_assert_max_num_queries(9):
        client.get(reverse("qualification_results", args=[made.pk]))
    with django_assert_max_num_queries(5):
        client.get(GRADING)
