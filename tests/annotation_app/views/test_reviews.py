"""/reviews: the pages, what they refuse and what they cost."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation_app.models import Annotation, Guideline, Organisation, Person, Review
from tests.annotation_app.conftest import read
from tests.annotation_app.rows import comparison, open_batch

pytestmark = pytest.mark.django_db
REVIEWS, NEXT, WORK = reverse("reviews"), reverse("next_review"), reverse("my_work")
ANNOTATE = reverse("annotate")


def answered(person, batch=None, **answer) -> Annotation:
    found = Annotation.objects.lease_next(person, batch or open_batch(comparisons=1))
    found.record(**{"choice": "a", "strength": "better", "active_seconds": 9.0} | answer)
    return found


def address(annotation: Annotation, name: str = "review") -> str:
    return reverse(name, args=[annotation.pk])


def decide(client, annotation: Annotation, decision: str, query: str = "", **fields):
    where = address(annotation, "decide") + query
    return client.post(where, {"decision": decision, **fields})


def test_it_works(as_rita, bob):
    annotation = answered(bob, a_seconds=6.0, b_seconds=3.0)
    Annotation.objects.update(shown_left="b")
    assert "1 answer waits for a review" in read(as_rita.get(REVIEWS))
    page = as_rita.get(NEXT, follow=True)
    assert page.redirect_chain == [(address(annotation), 302)]
    shown = read(page)
    assert "<b>bob</b> chose <b>Right better</b>" in shown
    assert "9 s active; left 3 s, right 6 s" in shown
    assert shown.index("I do not know.") < shown.index("Two years.")
    assert decide(as_rita, annotation, "approved").url == NEXT
    assert Review.objects.get().decision == "approved"
    after = as_rita.get(NEXT, follow=True)
    assert f"Approved: #{annotation.pk} by bob stands." in read(after)
    assert "Nothing of this waits for a review." in read(after)


@pytest.mark.parametrize("name", ["reviews", "next_review", "review", "decide"])
def test_annotators_are_kept_out(client, bob, charlie, name):
    annotation = answered(bob)
    where = reverse(name, args=[annotation.pk] if name in ("review", "decide") else [])
    ask = client.post if name == "decide" else client.get
    assert ask(where).url.startswith(reverse("sign_in"))
    client.force_login(charlie)
    assert ask(where, {"decision": "approved"}).status_code == 403
    assert "Reviews" not in client.get(WORK).content.decode()
    assert not Review.objects.exists()


@pytest.mark.parametrize("role", ["reviewer", "researcher", "administrator"])
def test_everyone_else_is_let_in(client, bob, role):
    annotation = answered(bob)
    client.force_login(Person.objects.create_user("someone", role=role))
    assert 'href="/reviews"' in client.get(reverse("team")).content.decode()
    assert client.get(address(annotation)).status_code == 200


def test_ones_own_answer_is_refused(as_rita, rita):
    annotation = answered(rita)
    assert "Nothing waits for a review" in read(as_rita.get(REVIEWS))
    for answer in (as_rita.get(address(annotation)), decide(as_rita, annotation, "approved")):
        assert answer.status_code == 403
        assert "This answer is your own" in read(answer)
        assert "chose" not in read(answer)
    assert not Review.objects.exists()


def test_looking_changes_nothing(as_rita, bob):
    annotation = answered(bob)
    before = Annotation.objects.values().get(pk=annotation.pk)
    for where in (REVIEWS, NEXT, address(annotation)):
        as_rita.get(where, {"decision": "approved"})
    assert as_rita.get(address(annotation, "decide")).status_code == 405
    assert as_rita.get(reverse("feedback_seen")).status_code == 405
    assert Annotation.objects.values().get(pk=annotation.pk) == before
    assert not Review.objects.exists()


def test_edit_through_the_page(as_rita, bob):
    annotation = answered(bob, open_batch("safety"), a_safe=True, b_safe=True)
    Annotation.objects.update(shown_left="b")
    page = read(as_rita.get(address(annotation), {"show": "1"}))
    assert 'value="right_better" checked' in page
    assert 'value="both" checked' in page
    fields = {"preference": "left_slightly_better", "safe": "left", "feedback": "A is unsafe."}
    decide(as_rita, annotation, "edited", **fields)
    annotation.refresh_from_db()
    found = annotation.superseded_by
    assert (found.choice, found.strength, found.a_safe, found.b_safe) == (
        "b", "slightly_better", False, True,
    )  # fmt: skip
    assert annotation.reviews.get().feedback == "A is unsafe."


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"decision": "rejected", "feedback": ""}, "Say why: the annotator will read it."),
        ({"decision": "sent_back", "feedback": " \n "}, "Say why: the annotator will read it."),
        ({}, "Approve, edit, send back or reject."),
        ({"decision": "praised"}, "praised is not one of the available choices"),
        ({"decision": "approved", "feedback": "x" * 1_001}, "at most 1000 characters"),
        ({"decision": "approved", "feedback": "a\0b"}, "Null characters are not allowed"),
        ({"decision": "edited"}, "Choose which response is better"),
        ({"decision": "edited", "preference": "up_better"}, "up_better is not one of"),
        (
            {"decision": "edited", "preference": "left_better", "safe": "right"},
            "marked unsafe and the other one safe",
        ),
        ({"decision": "edited", "preference": "left_better"}, "Say which of the two"),
    ],
)
def test_bad_input_stays_with_a_sentence(as_rita, bob, fields, sentence):
    annotation = answered(bob, open_batch("safety"), a_safe=True, b_safe=True)
    fields = {"feedback": "Kept <words>."} | fields
    answer = as_rita.post(address(annotation, "decide"), fields)
    if fields["feedback"] == "Kept <words>.":
        assert "Kept &lt;words&gt;.</textarea>" in answer.content.decode()
    assert answer.status_code == 400
    assert sentence in read(answer)
    assert not Review.objects.exists()
    assert Annotation.objects.get().state == "recorded"


@pytest.mark.parametrize("decision", ["rejected", "sent_back"])
def test_a_refusal_without_a_reason_is_refused(as_rita, bob, decision):
    annotation = answered(bob)
    answer = decide(as_rita, annotation, decision, feedback="  \n ")
    assert answer.status_code == 400
    assert "Say why: the annotator will read it." in read(answer)
    assert not Review.objects.exists()


def test_the_second_reviewer_is_told_and_keeps_the_words(client, as_rita, bob, alice):
    annotation = answered(bob)
    Review.approve(annotation, alice)
    answer = decide(as_rita, annotation, "rejected", feedback="At random.")
    assert answer.status_code == 409
    assert "This answer has been reviewed already: approved by alice" in read(answer)
    assert "Your feedback was not stored: At random." in read(answer)
    assert "<form" not in answer.content.decode().split('class="judge review"')[1]
    page = as_rita.get(address(annotation))
    assert page.status_code == 200
    assert "approved by alice" in read(page)
    client.force_login(alice)
    assert "approved by you" in read(client.get(address(annotation)))


def test_the_same_twice_is_stored_once(as_rita, bob):
    annotation = answered(bob)
    decide(as_rita, annotation, "rejected", feedback="At random.")
    answer = decide(as_rita, annotation, "rejected", feedback="At random.")
    assert answer.status_code == 409
    assert "rejected by you" in read(answer)
    annotation.refresh_from_db()
    assert (Review.objects.count(), annotation.comparison.open_slots) == (1, 1)


def test_a_closed_batch_offers_no_sending_back(as_rita, bob):
    batch = open_batch(comparisons=1)
    annotation = answered(bob, batch)
    batch.close()
    batch.finish_closing()
    page = read(as_rita.get(address(annotation)))
    assert "nothing can be sent back" in page
    assert 'value="sent_back"' not in page
    answer = decide(as_rita, annotation, "sent_back", feedback="Again.")
    assert answer.status_code == 409
    assert "nobody can judge in it again" in read(answer)
    assert "Again.</textarea>" in answer.content.decode()
    assert not Review.objects.exists()


def test_an_edit_beside_ones_own_answer_says_why_not(as_rita, rita, bob):
    batch = open_batch(overlap=2, comparisons=1)
    annotation = answered(bob, batch)
    answered(rita, batch)
    answer = decide(as_rita, annotation, "edited", preference="right_slightly_better")
    assert answer.status_code == 409
    assert "You have an answer of your own to this comparison" in read(answer)
    assert Annotation.objects.recorded().count() == 2


@pytest.mark.parametrize("pk", [0, 999_999, 2**63, 10**30])
def test_what_is_not_there(as_rita, pk):
    assert as_rita.get(f"/reviews/{pk}").status_code == 404
    assert as_rita.post(f"/reviews/{pk}/decide", {"decision": "approved"}).status_code == 404


def test_a_comparison_without_an_answer_is_not_shown(as_rita, bob):
    leased = Annotation.objects.lease_next(bob, open_batch())
    assert as_rita.get(address(leased)).status_code == 404


def test_filters(as_rita, bob, charlie):
    helpful, safe = open_batch(comparisons=2), open_batch("safety")
    mine = answered(bob, helpful)
    answered(charlie, helpful)
    safety = answered(charlie, safe, a_safe=True, b_safe=True)
    for query, wanted in (
        ({"annotator": "bob"}, mine),
        ({"criterion": "safety"}, safety),
        ({"batch": safe.pk}, safety),
        ({"annotator": "charlie", "criterion": "safety", "batch": safe.pk}, safety),
    ):
        answer = as_rita.get(NEXT, query)
        assert answer.url.startswith(address(wanted) + "?")
        assert "1 answer waits" in read(as_rita.get(REVIEWS, query))
    found = decide(as_rita, mine, "approved", "?annotator=bob")
    assert found.url == f"{NEXT}?annotator=bob"
    assert as_rita.get(found.url).url == f"{REVIEWS}?annotator=bob"
    assert "Nothing of this waits" in read(as_rita.get(REVIEWS, {"annotator": "bob"}))


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"criterion": "beauty"}, "There is no criterion of that name."),
        ({"annotator": "nobody"}, "There is nobody of that name."),
        ({"annotator": "bob\0"}, "Null characters are not allowed."),
        ({"batch": "x"}, "There is no such batch."),
        ({"batch": 10**30}, "There is no such batch."),
    ],
)
def test_a_filter_that_does_not_exist_says_so(as_rita, bob, query, sentence):
    answered(bob)
    for where in (REVIEWS, NEXT):
        answer = as_rita.get(where, query)
        assert answer.status_code == 400
        assert sentence in read(answer)


def test_no_other_column_can_be_asked_for(as_rita, bob):
    answered(bob)
    page = as_rita.get(REVIEWS, {"annotator__password": "x", "state": "excluded"})
    assert "1 answer waits" in read(page)
    assert "password" not in as_rita.get(NEXT, {"annotator__password": "x"}).url


def test_safety_texts_are_veiled_as_the_organisation_says(as_rita, bob):
    batch = open_batch("safety", comparisons=0)
    comparison(batch, "Veiled question?", a="Veiled one.", b="Veiled two.")
    annotation = answered(bob, batch, a_safe=True, b_safe=True)
    assert "Veiled" not in read(as_rita.get(address(annotation)))
    page = read(as_rita.get(address(annotation), {"show": "1"}))
    assert "Veiled two." in page
    assert f'action="{address(annotation, "decide")}"' in page  # the next one is veiled again
    page = read(as_rita.get(address(annotation), {"show": "all"}))
    assert "Veiled two." in page
    assert f'action="{address(annotation, "decide")}?show=all"' in page
    assert "Veiled two." in read(decide(as_rita, annotation, "rejected"))  # seen before
    Organisation.objects.create(pk=1, safety_is_veiled=False)
    assert "Veiled two." in read(as_rita.get(address(annotation)))


def test_the_guidelines_are_those_that_were_followed(as_rita, bob, alice):
    annotation = answered(bob)
    Guideline.publish("helpfulness", "Brand-new text.", 1, alice)
    assert "Brand-new text." not in read(as_rita.get(address(annotation)))
    Annotation.objects.update(guideline_version=2)
    assert "Brand-new text." in read(as_rita.get(address(annotation)))
    Annotation.objects.update(guideline_version=9)
    assert "Version 9 was never published." in read(as_rita.get(address(annotation)))


def test_the_table_of_shares(as_rita, bob, charlie, alice):
    batch = open_batch(comparisons=5)
    answers = [answered(bob, batch) for _ in range(4)]
    answered(charlie, batch)
    Review.approve(answers[0], alice)
    Review.reject(answers[1], alice, "At random.")
    rows = read(as_rita.get(REVIEWS)).split("<tbody>")[1].split("</tr>")
    assert "charlie" in rows[0]
    assert "2 (50.0 %)" in rows[1]
    assert f"{NEXT}?annotator=bob" in rows[1]


# --- costs ---------------------------------------------------------------------------------------


def queries(client, where: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(where).status_code in (200, 302)
    return len(captured)


def test_costs_do_not_grow(as_rita, client, rita, bob):
    batch = open_batch(comparisons=60)
    people = [Person.objects.create_user(f"p{n}") for n in range(6)]
    answers = [answered(person, batch) for person in [bob, *people] for _ in range(2)]
    addresses = (REVIEWS, NEXT, address(answers[0]))

    def review_three():
        Review.reject(answered(bob, batch), rita, "At random.")
        Review.send_back(answered(bob, batch), rita, "Again.")
        Review.edit(answered(bob, batch), rita, choice="b", strength="better")

    def costs() -> list[int]:
        client.force_login(rita)
        found = [queries(client, where) for where in addresses]
        client.force_login(bob)
        return [*found, queries(client, WORK), queries(client, ANNOTATE)]

    review_three()
    few = costs()
    for _ in range(5):
        review_three()
    assert costs() == few
    assert few[1:3] == [3, 8]  # session and person included
