"""/demonstrations: writing them, better answers, and reviewers' decisions."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Annotation, Demonstration, Person, Prompt
from tests.annotation_app.rows import comparison, open_batch

pytestmark = pytest.mark.django_db
WRITE = reverse("write_demonstration", args=["helpfulness"])
WRITE_SAFETY = reverse("write_demonstration", args=["safety"])


@pytest.fixture
def judged(bob):
    """Bob's recorded annotation, in which he preferred "Two years."."""
    annotation = Annotation.objects.lease_next(bob, open_batch())
    annotation.record(choice="a", strength="better")
    return annotation


def text_of(answer) -> str:
    return answer.content.decode()


def test_it_works(client, bob, rita):
    client.force_login(bob)
    assert "Write a demonstration" in text_of(client.get(reverse("annotate")))
    assert "Guidelines" in text_of(client.get(WRITE))
    answer = client.post(WRITE, {"prompt": "How?\r\nNow?", "text": " So.\r\nThen so.\r\n"})
    (written,) = Demonstration.objects.all()
    assert answer.url == reverse("demonstration", args=[written.pk])
    assert (written.text, written.prompt.user_message) == ("So.\nThen so.", "How?\nNow?")
    assert "It waits for someone else" in text_of(client.get(answer.url))
    client.force_login(rita)
    assert "1 waits for a decision" in text_of(client.get(reverse("demonstrations")))
    decided = client.post(reverse("approve_demonstration", args=[written.pk]))
    assert decided.url == reverse("demonstrations")
    assert "Nothing waits" in text_of(client.get(decided.url))
    client.force_login(bob)
    assert "approved" in text_of(client.get(reverse("my_work")))


def test_a_safety_one_carries_its_risk(as_bob):
    fields = {"prompt": "How?", "text": "No.", "risk_category": "illicit_and_criminal"}
    as_bob.post(WRITE_SAFETY, {**fields, "attack_vector": "logic"})
    prompt = Prompt.objects.get()
    assert (prompt.risk_category, prompt.attack_vector) == ("illicit_and_criminal", "logic")
    assert prompt.is_safety
    as_bob.post(WRITE, {**fields, "text": "Yes."})
    assert Prompt.objects.last().risk_category == ""


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text": "So."}, "Write the prompt first."),
        ({"prompt": "How?"}, "Write the answer too."),
        ({"prompt": "How?", "text": "  \r\n "}, "Write the answer too."),
        ({"prompt": "How?", "text": "x" * 20_001}, "at most 20000 characters"),
        ({"prompt": "x" * 20_001, "text": "So."}, "at most 20000 characters"),
        ({"prompt": "How?", "text": "So\x00."}, "Null characters are not allowed."),
        ({"prompt": "H", "text": "S", "risk_category": "fun"}, "fun is not one of the available"),
    ],
)
def test_what_cannot_be_stored_stays_with_a_sentence(as_bob, fields, sentence):
    answer = as_bob.post(WRITE_SAFETY, fields)
    assert answer.status_code == 400
    assert sentence in text_of(answer)
    if fields.get("text", "").startswith("x"):
        assert "x" * 20_001 in text_of(answer)
    assert not Demonstration.objects.exists()
    assert not Prompt.objects.exists()


def test_twenty_thousand_characters_of_any_line_end_fit(as_bob):
    as_bob.post(WRITE, {"prompt": "How?", "text": "x\r\n" * 9_999 + "xx"})
    assert len(Demonstration.objects.get().text) == 20_000


def test_two_tabs_with_the_same_text_store_it_once(as_bob):
    answers = [as_bob.post(WRITE, {"prompt": "How?", "text": "So."}).url for _ in range(2)]
    assert len(set(answers)) == 1
    assert Demonstration.objects.count() == Prompt.objects.count() == 1


def test_reading_changes_nothing(client, bob, rita, judged):
    Demonstration.write(bob, "helpfulness", "How?", "So.")
    for who in (bob, rita):
        client.force_login(who)
        for name in ("demonstration", "approve_demonstration", "reject_demonstration", "correct"):
            client.get(reverse(name, args=[Demonstration.objects.get().pk]))
            client.get(reverse(name, args=[judged.pk]))
        client.get(WRITE, {"prompt": "How?", "text": "Another."})
    assert list(Demonstration.objects.values_list("state", flat=True)) == ["written"]


def test_paused_people_and_those_without_safety_work_are_told(as_bob, bob, judged):
    Person.objects.filter(pk=bob.pk).update(does_safety=False)
    for answer in (
        as_bob.get(WRITE_SAFETY),
        as_bob.post(WRITE_SAFETY, {"prompt": "H", "text": "S"}),
    ):
        assert answer.status_code == 403
        assert "chosen not to do safety work" in text_of(answer)
    assert as_bob.get(WRITE).status_code == 200
    bob.pause("Please talk to us.")
    for address in (WRITE, reverse("correct", args=[judged.pk])):
        answer = as_bob.post(address, {"prompt": "How?", "text": "So."})
        assert answer.status_code == 403
        assert "Please talk to us." in text_of(answer)
    assert not Demonstration.objects.exists()


def test_unknown_criteria_and_ids(client, rita):
    client.force_login(rita)
    assert client.get("/demonstrations/beauty/write").status_code == 404
    for name in ("correct", "demonstration"):
        assert client.get(reverse(name, args=[99])).status_code == 404
    for name in ("correct", "approve_demonstration", "reject_demonstration"):
        assert client.post(reverse(name, args=[99]), {"reason": "No."}).status_code == 404


def test_strangers_are_sent_to_the_sign_in(client, db):
    for address in (WRITE, reverse("demonstrations"), reverse("correct", args=[1])):
        assert client.get(address).url.startswith(reverse("sign_in"))


# --- better answers ------------------------------------------------------------------------------


def test_a_better_answer_starts_from_the_preferred_response(as_bob, bob, judged):
    address = reverse("correct", args=[judged.pk])
    assert address in text_of(as_bob.get(reverse("my_work")))
    page = text_of(as_bob.get(address))
    assert ">\nTwo years.</textarea>" in page
    assert "How long is the warranty" in page
    as_bob.post(address, {"text": "Two years from the day of purchase."})
    (written,) = Demonstration.objects.all()
    assert (written.corrects, written.author) == (judged.comparison.response_a, bob)
    assert written.prompt == judged.comparison.prompt
    assert as_bob.get(address).url == reverse("demonstration", args=[written.pk])
    other = as_bob.post(address, {"text": "Another one."})
    assert other.status_code == 409
    assert "this other one was not stored" in text_of(other)
    assert "Another one.</textarea>" in text_of(other)
    assert Demonstration.objects.count() == 1


@pytest.mark.parametrize("text", ["Two years.", "  Two years.\r\n"])
def test_the_same_text_is_no_better_answer(as_bob, judged, text):
    answer = as_bob.post(reverse("correct", args=[judged.pk]), {"text": text})
    assert answer.status_code == 400
    assert "Nothing is changed yet" in text_of(answer)
    assert not Demonstration.objects.exists()


def test_only_ones_own_annotations_are_corrected(client, charlie, judged):
    client.force_login(charlie)
    for answer in (
        client.get(reverse("correct", args=[judged.pk])),
        client.post(reverse("correct", args=[judged.pk]), {"text": "Mine."}),
    ):
        assert answer.status_code == 403
        assert "reserved for someone else" in text_of(answer)
    assert not Demonstration.objects.exists()


@pytest.mark.parametrize("state", ["leased", "skipped", "superseded", "excluded", "surplus"])
def test_only_recorded_annotations_are_corrected(as_bob, judged, state):
    Annotation.objects.filter(pk=judged.pk).update(state=state)
    address = reverse("correct", args=[judged.pk])
    assert as_bob.get(address).status_code == 404
    assert as_bob.post(address, {"text": "Better."}).status_code == 404
    assert address not in text_of(as_bob.get(reverse("my_work")))


# --- decisions -----------------------------------------------------------------------------------


def test_annotators_must_not_review(as_bob, charlie):
    written = Demonstration.write(charlie, "helpfulness", "How?", "So.")
    assert as_bob.get(reverse("demonstrations")).status_code == 403
    answer = as_bob.get(reverse("demonstration", args=[written.pk]))
    assert answer.status_code == 403
    assert "someone else" in text_of(answer)
    for name in ("approve_demonstration", "reject_demonstration"):
        answer = as_bob.post(reverse(name, args=[written.pk]), {"reason": "No."})
        assert answer.status_code == 403
    written.refresh_from_db()
    assert written.state == "written"


def test_a_rejection_tells_its_author_why(client, bob, rita):
    written = Demonstration.write(bob, "helpfulness", "How?", "So.")
    client.force_login(rita)
    address = reverse("reject_demonstration", args=[written.pk])
    refused = client.post(address, {"reason": " "})
    assert refused.status_code == 400
    assert "Say why: the author will read it." in text_of(refused)
    client.post(address, {"reason": "Too short."})
    client.force_login(bob)
    for address in (reverse("my_work"), reverse("demonstration", args=[written.pk])):
        assert "Too short." in text_of(client.get(address))
    again = client.post(WRITE, {"prompt": "How?", "text": "So."})
    assert again.status_code == 409
    assert "This text was rejected: Too short." in text_of(again)


def test_an_edit_keeps_what_was_written(client, bob, rita, judged):
    written = Demonstration.correct(bob, "helpfulness", judged.comparison.response_a, "3 yers")
    client.force_login(rita)
    address = reverse("approve_demonstration", args=[written.pk])
    for text, sentence in (("3 yers", "Nothing is changed yet"), (" ", "An answer needs a text.")):
        answer = client.post(address, {"text": text})
        assert answer.status_code == 400
        assert sentence in text_of(answer)
    client.post(address, {"text": "3 years"})
    written.refresh_from_db()
    edited = written.superseded_by
    assert (written.state, written.text, edited.text) == ("superseded", "3 yers", "3 years")
    client.force_login(bob)
    page = text_of(client.get(reverse("demonstration", args=[edited.pk])))
    assert "as edited by rita" in page
    assert "3 yers" in page
    assert "approved, edited" in text_of(client.get(reverse("my_work")))


def test_a_decision_leads_to_the_next_one(client, bob, rita):
    rows = [Demonstration.write(bob, "helpfulness", "How?", f"So {n}.") for n in range(3)]
    mine = Demonstration.write(rita, "helpfulness", "How?", "So.")
    client.force_login(rita)
    answer = client.post(reverse("approve_demonstration", args=[rows[1].pk]))
    assert answer.url == reverse("demonstration", args=[rows[2].pk])
    answer = client.post(reverse("reject_demonstration", args=[rows[2].pk]), {"reason": "No."})
    assert answer.url == reverse("demonstration", args=[rows[0].pk])
    answer = client.post(reverse("approve_demonstration", args=[rows[0].pk]))
    assert answer.url == reverse("demonstrations")
    page = text_of(client.get(reverse("demonstration", args=[mine.pk])))
    assert "Decide</h2>" not in page
    answer = client.post(reverse("approve_demonstration", args=[mine.pk]))
    assert answer.status_code == 403
    assert "someone else decides" in text_of(answer)


def test_a_second_decision_is_told_of_the_first(client, bob, rita, alice):
    written = Demonstration.write(bob, "helpfulness", "How?", "So.")
    written.approve(alice)
    client.force_login(rita)
    answer = client.post(reverse("reject_demonstration", args=[written.pk]), {"reason": "No."})
    assert answer.status_code == 409
    assert "this one is approved" in text_of(answer)


def test_hostile_text_stays_text(client, bob, rita):
    batch = open_batch(comparisons=0)
    hostile = "<script>alert(1)</script> [x](javascript:alert(1)) </script>"
    found = comparison(batch, hostile, a=hostile)
    written = Demonstration.correct(bob, "helpfulness", found.response_a, hostile + "!")
    written.reject(rita, hostile)
    for who, address in (
        (bob, reverse("my_work")),
        (bob, reverse("demonstration", args=[written.pk])),
        (rita, reverse("demonstration", args=[written.pk])),
        (rita, reverse("demonstrations")),
    ):
        client.force_login(who)
        page = text_of(client.get(address)).split("<main", 1)[1]
        assert "alert(1)</script>" not in page
        assert 'href="javascript' not in page


def test_safety_texts_are_hidden_from_reviewers_until_asked_for(client, bob, rita):
    written = Demonstration.write(bob, "safety", "An upsetting question?", "So.")
    client.force_login(rita)
    assert "upsetting question" not in text_of(client.get(reverse("demonstrations")))
    page = text_of(client.get(reverse("demonstration", args=[written.pk])))
    assert "<details><summary>Safety texts: show them</summary>" in page


def test_the_pages_cost_the_same_for_any_number(
    client, bob, rita, alice, judged, django_assert_max_num_queries
):
    for number in range(12):
        written = Demonstration.write(bob, "helpfulness", "How?", f"So {number}.")
        if number % 3 == 0:
            written.approve_edited(rita, f"Thus {number}.")
    Demonstration.correct(bob, "helpfulness", judged.comparison.response_a, "Better.")
    client.force_login(rita)
    with django_assert_max_num_queries(6):
        client.get(reverse("demonstrations"))
    with django_assert_max_num_queries(4):
        client.get(reverse("demonstration", args=[Demonstration.objects.last().pk]))
    client.force_login(bob)
    with django_assert_max_num_queries(11):  # one for the better answers that stand
        client.get(reverse("my_work"))
    with django_assert_max_num_queries(5):
        client.get(WRITE)
