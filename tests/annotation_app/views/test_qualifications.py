"""/qualifications: what each role sees, sends, and is refused."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import (
    Attempt,
    AttemptAnswer,
    FurtherAttempt,
    Gate,
    GateQuestion,
    Person,
    Qualification,
    Skill,
)
from tests.annotation_app.qualifications import (
    comparisons,
    document,
    only_gate,
    passed,
    publish,
    quiz,
    write,
    writing,
)
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db
LIST = reverse("qualifications")
NEW = reverse("new_qualification")
GRADING = reverse("grading")


def text(answer) -> str:
    return answer.content.decode()


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


# --- reviewers -------------------------------------------------------------------------------


def test_grading(as_rita, rita, bob, alice):
    gate = only_gate(publish(alice, writing(2)))
    first = waiting_text(bob, gate)
    own = waiting_text(rita, gate)
    page = text(as_rita.get(GRADING))
    assert "Grade the first of 2" in page
    assert "bob" not in page
    page = text(as_rita.get(reverse("grade", args=[first.pk])))
    assert "Text 1." in page
    assert "bob" not in page
    address = reverse("grade", args=[first.pk])
    for odd in ({}, {"grade": "6"}, {"grade": "0"}, {"grade": "4.5"}):
        assert as_rita.post(address, odd).status_code == 400
    answer = as_rita.post(address, {"grade": "5", "comment": "Clear."})
    second = first.attempt.answers.last()
    assert answer.url == reverse("grade", args=[second.pk])
    assert "Clear.</textarea>" in text(as_rita.get(address))  # whoever corrects keeps the comment
    assert as_rita.post(address, {"grade": "1"}).status_code == 409
    assert as_rita.get(reverse("grade", args=[own.pk])).status_code == 403
    assert as_rita.post(reverse("grade", args=[own.pk]), {"grade": "5"}).status_code == 403
    page = text(as_rita.post(answer.url, {"grade": "4", "comment": "Kept."}))
    assert "the last grade of the attempt, which passes with a mean of 4.50" in page
    assert "Kept.</textarea>" in page
    assert as_rita.post(answer.url, {"grade": "4", "sure": "4"}).url == GRADING
    assert "Nothing waits for a grade" in text(as_rita.get(GRADING))
    first.attempt.refresh_from_db()
    assert (first.attempt.state, first.attempt.score) == ("passed", 4.5)
    as_rita.force_login(bob)
    page = text(as_rita.get(reverse("attempt", args=[first.attempt_id])))
    assert "mean grade 4.50" in page
    assert "Clear." in page
    assert "rita" not in page


def test_only_finished_texts_can_be_graded(as_rita, bob, alice):
    attempt = Attempt.begin(only_gate(publish(alice, writing(1))), bob)
    write(attempt, 1)
    address = reverse("grade", args=[attempt.answers.get().pk])
    assert "does not wait for a grade" in text(as_rita.get(address))
    assert as_rita.post(address, {"grade": "5"}).status_code == 409
    quizzed = passed(only_gate(publish(alice, quiz(1), skill="Sums")), bob)
    assert as_rita.get(reverse("grade", args=[quizzed.answers.get().pk])).status_code == 404


def test_results_and_another_attempt(as_rita, bob, charlie, alice):
    made = publish(alice, quiz(), comparisons())
    first = made.gates.first()
    passed(first, bob)
    Attempt.begin(first, charlie).finish()
    results = reverse("qualification_results", args=[made.pk])
    page = text(as_rita.get(results))
    assert "3 of 3 right" in page
    assert "0 of 3 right" in page
    assert "Allow charlie another attempt at Sums" in page
    assert "Allow bob" not in page
    allow = reverse("allow_attempt", args=[first.pk, charlie.pk])
    assert as_rita.get(allow).status_code == 405
    assert as_rita.post(allow).url == results
    assert as_rita.post(allow).status_code == 409
    assert as_rita.post(reverse("allow_attempt", args=[first.pk, 10**15])).status_code == 404
    assert FurtherAttempt.objects.count() == 1
    assert "attempt 1 of 2" in text(as_rita.get(results))


def test_annotators_see_none_of_it(as_bob, bob, alice):
    made = publish(alice, writing(1))
    waiting = waiting_text(bob, only_gate(made))
    for address in (
        GRADING,
        reverse("grade", args=[waiting.pk]),
        reverse("qualification_results", args=[made.pk]),
        reverse("download_qualification", args=[made.pk]),
        NEW,
    ):
        assert as_bob.get(address).status_code == 403
    for name, args in (
        ("grade", [waiting.pk]),
        ("close_qualification", [made.pk]),
        ("allow_attempt", [only_gate(made).pk, bob.pk]),
        ("new_qualification", []),
    ):
        assert as_bob.post(reverse(name, args=args), {"grade": "5"}).status_code == 403
    page = text(as_bob.get(LIST)) + text(as_bob.get(reverse("qualification", args=[made.pk])))
    for word in ("Grading", "Results", "Download", "Close it"):
        assert word not in page


def test_nobody_without_signing_in(client, alice):
    made = publish(alice)
    for address in (LIST, NEW, GRADING, reverse("gate", args=[only_gate(made).pk])):
        assert client.get(address).url.startswith("/sign-in")


def test_reviewers_do_not_configure(as_rita, alice):
    made = publish(alice)
    assert as_rita.get(NEW).status_code == 403
    assert as_rita.get(reverse("download_qualification", args=[made.pk])).status_code == 403
    assert as_rita.post(reverse("close_qualification", args=[made.pk])).status_code == 403


# --- researchers -----------------------------------------------------------------------------


def test_publishing_by_paste_and_by_file(as_alice):
    pasted = json.dumps(document(quiz(2)))
    assert as_alice.post(NEW, {"text": pasted}).status_code == 302
    assert as_alice.post(NEW, {"text": pasted}).status_code == 302
    assert Qualification.objects.count() == 1
    file = SimpleUploadedFile("q.json", ("\ufeff" + json.dumps(document(quiz(3)))).encode())
    as_alice.post(NEW, {"file": file})
    newest = Qualification.objects.open().get()
    assert newest.version == 2
    assert only_gate(newest).questions.count() == 3


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "Choose a file or paste a document."),
        ({"text": "{"}, "this is not JSON"),
        ({"file": b"\xff\xfe\x00"}, "q.json is not text in UTF-8."),
        ({"file": b" " * 2_000_001}, "q.json is larger than the allowed 2 MB."),
        ({"file": b'{"skill": 3}'}, "The document: skill is 3; allowed is a text."),
        ({"text": "x" * 2_000_001}, "at most 2000000 characters"),
        ({"text": json.dumps(document(*[{}] * 20))}, "And 30 more."),
    ],
)
def test_bad_documents_leave_nothing(as_alice, fields, sentence):
    if "file" in fields:
        fields = {"file": SimpleUploadedFile("q.json", fields["file"])}
    answer = as_alice.post(NEW, fields)
    assert answer.status_code == 400
    assert sentence in text(answer).replace("&quot;", '"'), text(answer)[:3000]
    assert not Skill.objects.exists()
    assert not Qualification.objects.exists()


def test_a_faulty_file_stands_in_the_field(as_alice):
    answer = as_alice.post(NEW, {"file": SimpleUploadedFile("q.json", b'{"skill": 3}')})
    assert "{&quot;skill&quot;: 3}</textarea>" in text(answer)


def test_the_example_is_offered_and_can_be_stored(as_alice):
    page = as_alice.get(NEW, {"example": "1"})
    example = page.context["form"].initial["text"]
    assert "Help desk qualification" in example
    as_alice.post(NEW, {"text": example})
    assert [g.kind for g in Gate.objects.all()] == ["quiz", "quiz", "comparisons", "writing"]


def test_the_document_comes_back(as_alice, alice):
    made = publish(alice, quiz(2), writing(2, ask=1))
    answer = as_alice.get(reverse("download_qualification", args=[made.pk]))
    assert answer["Content-Disposition"] == 'attachment; filename="english-1.json"'
    as_alice.post(NEW, {"text": answer.content.decode()})
    assert Qualification.objects.count() == 1


def test_closing(as_alice, alice):
    made = publish(alice)
    close = reverse("close_qualification", args=[made.pk])
    assert as_alice.get(close).status_code == 405
    as_alice.post(close)
    assert as_alice.post(close).status_code == 409
    assert "which is closed" in text(as_alice.get(reverse("qualification", args=[made.pk])))


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
