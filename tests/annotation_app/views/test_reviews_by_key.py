"""Reviews in a real browser: a key for each decision, veils, the page without its script."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from annotation_app.models import Annotation, Person, Review
from tests.annotation_app.rows import open_batch
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import press
from tests.annotation_app.views.test_reviews import ANNOTATE, NEXT, REVIEWS, WORK, address, answered


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
