"""/reviews, and what comes of it on /work: pages, refusals, feedback, keys."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import Annotation, Guideline, Organisation, Person, Review
from tests.annotation_app.rows import comparison, open_batch
from tests.annotation_app.views.axe import PHONE, fits, violations

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


def read(answer) -> str:
    return " ".join(answer.content.decode().split())


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
        ({"decision": "rejected"}, "Say why: the annotator will read it."),
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
    if fields.get("feedback") == "Kept <words>.":
        if fields.get("decision") in ("rejected", "sent_back"):
            assert answer.status_code == 302
            return
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


# --- what the annotator sees ---------------------------------------------------------------------


def test_feedback_reaches_its_annotator_alone_and_names_nobody(client, bob, charlie, rita):
    batch = open_batch(comparisons=4)
    answers = [answered(bob, batch) for _ in range(4)]
    Review.approve(answers[0], rita)
    Review.edit(answers[1], rita, "Wordy <b>nonsense</b>.", choice="b", strength="better",
                a_safe=None, b_safe=None)  # fmt: skip
    Review.reject(answers[2], rita, "You clicked at random.")
    client.force_login(bob)
    page = read(client.get(WORK))
    assert "Wordy &lt;b&gt;nonsense&lt;/b&gt;." in page
    assert "Corrected to:" in page
    assert "You clicked at random." in page
    assert "rita" not in page
    assert page.count("<b>new</b>") == 2
    client.force_login(charlie)
    page = read(client.get(WORK))
    assert "You clicked at random." not in page
    assert "None yet: reviewers look at a share of the answers" in page


def test_got_it_marks_ones_own_as_read(client, bob, charlie, rita):
    batch = open_batch(comparisons=2)
    for person in (bob, charlie):
        Review.reject(answered(person, batch), rita, "At random.")
    client.force_login(bob)
    client.get(WORK)
    assert not Review.objects.exclude(seen_at=None).exists()
    client.post(reverse("feedback_seen"), {"oldest": 1, "newest": 2**62})
    assert Review.objects.exclude(seen_at=None).get().annotator == bob
    page = read(client.get(WORK))
    assert "<b>new</b>" not in page
    assert "Got it" not in page
    assert client.post(reverse("feedback_seen"), {"newest": "x"}).url == WORK


def test_only_what_was_shown_is_marked_as_read(client, bob, rita):
    batch = open_batch(comparisons=23)
    for _ in range(23):
        Review.reject(answered(bob, batch), rita, "At random.")
    client.force_login(bob)
    page = client.get(WORK)
    news = page.context["news"]
    client.post(reverse("feedback_seen"), {"oldest": news[-1], "newest": news[0]})
    assert Review.objects.filter(seen_at=None).count() == 3
    assert read(client.get(WORK)).count("<b>new</b>") == 3


def test_what_was_sent_back_is_judged_again(client, bob, rita):
    annotation = answered(bob)
    hour_ago = timezone.now() - timedelta(hours=1)
    Annotation.objects.update(recorded_at=hour_ago, shown_left="a")
    client.force_login(bob)
    assert client.get(address(annotation, "revise")).status_code == 409
    Review.send_back(annotation, rita, "Read the second sentence.")
    assert "1 of your answers was sent back to you" in read(client.get(ANNOTATE))
    assert f'href="{address(annotation, "revise")}"' in read(client.get(WORK))
    page = read(client.get(address(annotation, "revise")))
    assert "Read the second sentence." in page
    assert "You had chosen: Left better." in page
    assert "checked" not in page.split('id="judgement"')[1].split("</form>")[0]
    client.post(address(annotation, "revise"), {"preference": "right_better"})
    annotation.refresh_from_db()
    assert (annotation.state, annotation.superseded_by.choice) == ("superseded", "b")
    page = read(client.get(WORK))
    assert "Sent back to you" not in page
    assert "You have judged again." in page
    client.force_login(rita)
    assert client.get(NEXT).url == address(annotation.superseded_by)


def test_nobody_elses_sent_back_answer_can_be_judged(client, bob, charlie, rita):
    annotation = answered(bob)
    Review.send_back(annotation, rita, "Again.")
    client.force_login(charlie)
    assert "sent back" not in read(client.get(ANNOTATE))
    for ask in (client.get, client.post):
        answer = ask(address(annotation, "revise"), {"preference": "right_better"})
        assert answer.status_code == 403
    annotation.refresh_from_db()
    assert annotation.state == "recorded"


def test_an_ordinary_undo_shows_no_feedback(as_bob, bob):
    annotation = answered(bob)
    assert "review-note" not in read(as_bob.get(address(annotation, "revise")))


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


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def desk(page, live_server, client, rita):
    """Rita's window: call it with an address."""
    client.force_login(rita)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])

    def go(where: str):
        page.goto(live_server.url + where)
        return settled(page)

    return go


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def settled(page):
    """A key that comes sooner may be meant for the answer before."""
    page.wait_for_load_state("load")
    page.wait_for_timeout(600)
    return page


def reviewed(page, sentence: str) -> None:
    page.get_by_text(sentence).wait_for()
    settled(page)


@pytest.mark.django_db(transaction=True)
def test_a_key_for_each_decision(desk, bob):
    batch = open_batch(comparisons=4)
    for _ in range(4):
        answered(bob, batch)
    page = desk(NEXT)
    press(page, "a")
    reviewed(page, "Approved:")
    press(page, "r")
    page.keyboard.type("A bad answer. Be exact.")  # letters are words here, not keys
    press(page, "Control+Enter")
    reviewed(page, "Rejected:")
    press(page, "b")
    assert "Say why" in page.locator("#hint").inner_text()
    page.keyboard.type("Again.")
    press(page, "Escape", "b")
    reviewed(page, "Sent back:")
    press(page, "e")
    before = page.locator("input:checked").get_attribute("value")
    press(page, "ArrowRight", "a")
    assert not page.get_by_text("Approved:").count()
    press(page, "Enter")
    reviewed(page, "Edited:")
    assert page.url.endswith(REVIEWS)
    found = dict(Review.objects.values_list("decision", "feedback"))
    assert found == {
        "approved": "", "edited": "", "rejected": "A bad answer. Be exact.", "sent_back": "Again.",
    }  # fmt: skip
    corrected = Annotation.objects.get(purpose="review")
    assert f"left_{corrected.strength}" != before


@pytest.mark.django_db(transaction=True)
def test_a_key_shows_veiled_texts(desk, bob):
    answered(bob, open_batch("safety"), a_safe=True, b_safe=True)
    page = desk(NEXT)
    press(page, "a", "v")
    page.locator("#card").wait_for()
    assert not Review.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_judging_again_with_the_script(desk, client, live_server, rita, bob):
    batch = open_batch(comparisons=2)
    annotation = answered(bob, batch)
    Annotation.objects.update(recorded_at=timezone.now() - timedelta(hours=1), shown_left="a")
    Review.send_back(annotation, rita, "Read the second sentence.")
    client.force_login(bob)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page = desk(WORK)
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page = desk(ANNOTATE)
    page.get_by_role("link", name="Judge it again").click()
    page.get_by_role("link", name=f"Judge #{annotation.pk} again").click()
    reviewed(page, "You had chosen: Left better")
    press(page, "8", "Enter")
    page.get_by_text(f"in place of #{annotation.pk}").wait_for()
    assert page.locator("#review-note").count() == 0
    again = Annotation.objects.get(supersedes=annotation)
    assert (again.choice, again.strength) == ("b", "significantly_better")


@pytest.mark.django_db(transaction=True)
def test_a_second_press_does_not_reach_the_next_answer(desk, page, bob):
    batch = open_batch(comparisons=3)
    for _ in range(3):
        answered(bob, batch)
    page.clock.install(time=0)
    page.clock.pause_at(1_000)  # time stands still on the pages but for run_for
    desk(NEXT)
    press(page, "a")
    page.clock.run_for(600)
    assert not Review.objects.exists()
    press(page, "a", "a")
    reviewed(page, "Approved:")
    press(page, "a", "a")
    settled(page)
    assert Review.objects.count() == 1
    page.clock.run_for(600)
    with page.expect_navigation():
        press(page, "a")
    assert Review.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_without_single_keys_there_are_none(desk, bob, rita):
    Person.objects.filter(pk=rita.pk).update(key_layout="none")
    annotation = answered(bob)
    page = desk(address(annotation))
    assert page.locator("kbd").count() == 0
    press(page, "a")
    page.wait_for_timeout(300)
    assert not Review.objects.exists()
    page.get_by_role("button", name="Approve").click()
    reviewed(page, "Approved:")


@pytest.mark.django_db(transaction=True)
def test_without_its_script_the_page_still_works(chromium, live_server, client, rita, bob):
    batch = open_batch(comparisons=2)
    for _ in range(2):
        answered(bob, batch)
    client.force_login(rita)
    context = chromium.new_context(java_script_enabled=False)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    context.add_cookies([{**cookie, "url": live_server.url}])
    plain = context.new_page()
    plain.goto(live_server.url + REVIEWS)
    plain.get_by_role("button", name="Start reviewing").click()
    plain.get_by_role("button", name="Reject").click()
    plain.get_by_text("Say why: the annotator will read it.").wait_for()
    plain.locator("#feedback").fill("At random.")
    plain.get_by_role("button", name="Reject").click()
    plain.get_by_text("Rejected:").wait_for()
    plain.locator("summary", has_text="Edit").click()
    plain.locator("label.preference").nth(3).click()
    plain.get_by_role("button", name="Save the correction").click()
    plain.get_by_text("Edited:").wait_for()
    context.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(desk, client, live_server, rita, bob, scheme):
    batch = open_batch("safety", comparisons=5)
    marks = {"a_safe": True, "b_safe": True}
    first, *others = [answered(bob, batch, **marks) for _ in range(4)]
    Review.reject(others[0], rita, "At random.")
    Review.edit(others[1], rita, "A.", choice="b", strength="better", **marks)
    Review.send_back(others[2], rita, "Again. " * 40)

    def check(page, at: str):
        assert violations(page) == [], at
        width = page.viewport_size
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(300)  # figures follow
        assert fits(page), at
        assert violations(page) == [], at
        page.set_viewport_size(width)

    where = address(first)
    for at in (
        REVIEWS,
        f"{REVIEWS}?annotator=nobody",
        where,
        f"{where}?show=1",
        address(others[0]),
    ):
        page = desk(at)
        page.emulate_media(color_scheme=scheme)
        check(page, at)
    page = desk(f"{where}?show=1")
    press(page, "r")
    check(page, "asked why")
    press(page, "Escape", "e")
    check(page, "editing")
    client.force_login(bob)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    for at in (WORK, ANNOTATE, address(others[2], "revise")):
        check(desk(at), at)
