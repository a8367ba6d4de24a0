"""The note of the judging page, and drafts of demonstrations, in a real browser."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Annotation, Demonstration, Person, Remark
from tests.annotation_app.rows import comparison, open_batch
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.test_judging_page import ahead, judge, press, saved, shown

__all__ = ["judge"]
pytestmark = pytest.mark.django_db(transaction=True)


def focused(page) -> str:
    return page.evaluate("`${document.activeElement.name ?? ''} ${document.activeElement.id}`")


def is_open(page) -> bool:
    return page.locator("#note").evaluate("note => note.open")


@pytest.mark.parametrize("shown_left", ["a", "b"])
def test_it_works(judge, shown_left):
    """Rated, reasoned and commented by keys alone; Enter sends it once, on the right sides."""
    open_batch(comparisons=6)
    page = judge()
    first = shown(page)
    Annotation.objects.filter(pk=first.pk).update(shown_left=shown_left)
    ahead(page)
    sent = []
    page.on("request", lambda r: r.url.endswith("/record") and sent.append(r.url))
    press(page, "2", "n", "6", "Tab", "Space", "Tab", "Tab", "Space")
    assert focused(page).startswith("left_tags")
    page.locator("input[name=right_rating]").first.focus()
    press(page, "3", "ArrowLeft")
    page.locator("#comment").focus()
    page.keyboard.type("Left is better: 1 s n q")
    press(page, "Enter")
    page.keyboard.type("by far")
    page.locator("input[name=right_tags]").first.focus()
    press(page, "Enter", "Enter")
    stored = saved(page, first)
    assert (stored.strength, stored.choice) == ("better", shown_left)
    remark = Remark.objects.get(annotation=first)
    left, right = (remark.a_rating, remark.a_tags), (remark.b_rating, remark.b_tags)
    if shown_left == "b":
        left, right = right, left
    assert (left, right) == ((6, ["useful", "creative"]), (2, []))
    assert remark.comment == "Left is better: 1 s n q\nby far"
    page.wait_for_timeout(300)
    assert len(sent) == 1
    assert Annotation.objects.recorded().count() == 1


def test_the_next_comparison_starts_without_a_note(judge):
    open_batch(comparisons=6)
    page = judge()
    first, second = shown(page), ahead(page)
    press(page, "1", "n", "7", "Enter")
    saved(page, first)
    assert shown(page) == second
    assert not is_open(page)
    assert focused(page) == " left"
    assert page.locator("#judgement input:checked").count() == 0
    press(page, "2", "Enter")
    assert saved(page, second).strength == "better"
    assert list(Remark.objects.values_list("annotation", flat=True)) == [first.pk]


def test_keys_of_the_page_rest_within_the_note(judge):
    open_batch(comparisons=6)
    page = judge()
    first = shown(page)
    press(page, "n")
    page.locator("input[name=left_tags]").first.focus()
    press(page, "3", "s", "f", "u", "n")
    assert page.locator("dialog[open]").count() == 0
    assert page.locator("#judgement input:checked").count() == 0
    assert shown(page) == first
    press(page, "Escape")
    assert not is_open(page)
    press(page, "3")
    assert page.locator("input:checked").get_attribute("value") == "left_slightly_better"


def test_control_and_enter_submit_from_the_comment(judge):
    open_batch(comparisons=6)
    page = judge()
    first = shown(page)
    press(page, "1", "n")
    page.locator("#comment").fill("Clear.")
    press(page, "Control+Enter")
    saved(page, first)
    assert Remark.objects.get().comment == "Clear."


def test_a_note_alone_is_no_answer(judge):
    open_batch()
    page = judge()
    press(page, "n", "4", "Enter")
    assert "Choose which response is better" in page.locator("#errors").inner_text()
    assert page.locator("input[name=left_rating]:checked").input_value() == "4"
    assert not Annotation.objects.recorded().exists()


def test_a_draft_keeps_the_note(judge):
    open_batch()
    page = judge()
    press(page, "n", "5")
    page.locator("input[value=superficial]").last.check()
    page.locator("#comment").fill("Half a sentence")
    page.reload()
    assert is_open(page)
    assert page.locator("input[name=left_rating]:checked").input_value() == "5"
    assert page.locator("input[name=right_tags]:checked").input_value() == "superficial"
    assert page.locator("#comment").input_value() == "Half a sentence"
    assert not Annotation.objects.recorded().exists()


def test_an_unsent_answer_comes_back_with_its_note(judge):
    open_batch(comparisons=6)
    page = judge()
    first = shown(page)
    ahead(page)
    page.context.set_offline(True)
    press(page, "1", "n", "5", "Enter")
    page.get_by_text("cannot be reached").wait_for()
    press(page, "u")
    assert shown(page) == first
    assert page.locator("input[name=left_rating]:checked").input_value() == "5"
    assert page.locator("input[name=preference]:checked").count() == 1
    page.context.set_offline(False)
    page.keyboard.press("Escape")
    press(page, "Enter")
    saved(page, first)
    remark = Remark.objects.get()
    assert 5 in (remark.a_rating, remark.b_rating)


def test_left_handed_people_have_a_key_for_it(judge, bob):
    Person.objects.filter(pk=bob.pk).update(key_layout="left_hand")
    open_batch()
    page = judge()
    press(page, "x")
    assert is_open(page)


def test_without_the_script_a_note_is_sent_too(judge, chromium, page, live_server):
    open_batch()
    judge()
    context = chromium.new_context(java_script_enabled=False)
    context.add_cookies(page.context.cookies(live_server.url))
    plain = context.new_page()
    plain.goto(live_server.url + reverse("annotate_next", args=["helpfulness"]))
    plain.locator("label.preference").first.click()
    plain.locator("#note summary").click()
    plain.locator("#note fieldset.left .ratings label").nth(3).click()
    plain.get_by_label("Incorrect").first.check()
    plain.get_by_label("Unsafe").first.check()
    plain.get_by_role("button", name="Submit").click()
    plain.get_by_text("Saved").wait_for()
    remark = Remark.objects.get()
    assert sorted(remark.a_tags + remark.b_tags) == ["incorrect", "unsafe"]
    assert 4 in (remark.a_rating, remark.b_rating)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, PHONE])
def test_axe_finds_nothing_with_the_note_open(judge, scheme, size):
    open_batch()
    page = judge()
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    press(page, "n", "6")
    assert violations(page) == []
    assert fits(page)


# --- demonstrations ------------------------------------------------------------------------------


@pytest.fixture
def visit(page, live_server, client):
    """Go to a page as somebody."""

    def go(who: Person, name: str, *args):
        client.force_login(who)
        cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
        page.context.add_cookies([{**cookie, "url": live_server.url}])
        page.goto(live_server.url + reverse(name, args=args))
        return page

    return go


def test_a_draft_is_kept_and_never_sent_by_itself(visit, bob):
    page = visit(bob, "write_demonstration", "safety")
    page.locator("#id_prompt").fill("How?")
    page.locator("#id_text").fill("So.")
    page.locator("#id_attack_vector").select_option("logic")
    page.reload()
    assert "Your draft is back" in page.locator("#draft-news").inner_text()
    assert page.locator("#id_text").input_value() == "So."
    assert page.locator("#id_attack_vector").input_value() == "logic"
    assert not Demonstration.objects.exists()
    page.get_by_role("button", name="Discard").click()
    assert page.locator("#id_prompt").input_value() == ""
    page.reload()
    assert page.locator("#id_prompt").input_value() == ""


def test_what_is_stored_leaves_no_draft_and_what_is_refused_does(visit, bob):
    page = visit(bob, "write_demonstration", "helpfulness")
    page.locator("#id_text").fill("So.\n\nAnd so.")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Write the prompt first.").wait_for()
    assert page.locator("#id_text").input_value() == "So.\n\nAnd so."
    page.locator("#id_prompt").fill("How?")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("It waits for someone else").wait_for()
    page.get_by_role("link", name="Write another").click()
    assert page.locator("#id_text").input_value() == ""
    assert Demonstration.objects.get().text == "So.\n\nAnd so."


def test_a_better_answer_and_its_difference(visit, bob, alice):
    batch = open_batch(comparisons=0)
    comparison(batch, "How long?", a="It is two years.", b="I do not know.")
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(choice="a", strength="better")
    page = visit(bob, "my_work")
    page.get_by_role("link", name="Write a better answer").click()
    page.locator("#id_text").fill("It is three years.")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("It waits for someone else").wait_for()
    page = visit(alice, "demonstrations")
    page.get_by_role("link", name="Review the oldest").click()
    page.locator("mark").first.wait_for()
    assert page.locator("mark").all_inner_texts() == ["two", "three"]
    page.get_by_text("Edit, then approve").click()
    page.locator("#id_text").fill("It is 3 years.")
    page.get_by_role("button", name="Approve the edited answer").click()
    page.get_by_text("Nothing waits").wait_for()
    assert [d.text for d in Demonstration.objects.approved()] == ["It is 3 years."]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, bob, alice, scheme):
    batch = open_batch(comparisons=1)
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(choice="a", strength="better")
    rows = [Demonstration.write(bob, "safety", "How?", f"So {n}.") for n in range(4)]
    rows[0].approve_edited(alice, "Thus.")
    rows[1].reject(alice, "No.")
    for who, name, args in (
        (bob, "annotate", []),
        (bob, "write_demonstration", ["safety"]),
        (bob, "correct", [annotation.pk]),
        (bob, "my_work", []),
        (bob, "demonstration", [rows[1].pk]),
        (bob, "demonstration", [rows[0].superseded_by.pk]),
        (alice, "demonstrations", []),
        (alice, "demonstration", [rows[2].pk]),
        (alice, "exports", []),
    ):
        page = visit(who, name, *args)
        page.emulate_media(color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        assert violations(page) == [], name
        page.set_viewport_size(PHONE)
        page.reload()  # a figure is drawn once, as wide as the window is then
        assert fits(page), name
        page.set_viewport_size({"width": 1280, "height": 900})
