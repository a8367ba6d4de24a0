"""The page of a running attempt in a real browser: keys, clock, phone, and what axe finds."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import Attempt, Person
from tests.annotation_app.qualifications import (
    comparisons,
    only_gate,
    publish,
    quiz,
    write,
    writing,
)
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import press

pytestmark = pytest.mark.django_db(transaction=True)
STRENGTHS = ["significantly_better", "better", "slightly_better", "negligibly_better"]


@pytest.fixture
def go(page, live_server, client, bob):
    """Bob's window, or someone else's: call it with an address."""

    def sign_in(who: Person) -> None:
        client.force_login(who)
        cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
        page.context.add_cookies([{**cookie, "url": live_server.url}])

    def to(address: str, who: Person | None = None):
        if who is not None:
            sign_in(who)
        page.goto(live_server.url + address)
        return page

    sign_in(bob)
    return to


@pytest.fixture
def begin(go, alice):
    """Publish one gate and stand on the first question of an attempt at it."""

    def stand(made):
        gate = only_gate(publish(alice, made))
        page = go(reverse("gate", args=[gate.pk]))
        page.locator("form.actions button").click()
        page.wait_for_url("**/questions/1")
        return page, Attempt.objects.get(gate=gate)

    return stand


def test_a_quiz_by_keys_alone(begin, bob):
    page, attempt = begin(quiz(3))
    for number in (1, 2, 3):
        page.wait_for_url(f"**/questions/{number}")
        press(page, "1", "2", "Enter")
    page.get_by_text("All 3 questions answered.").wait_for()
    page.get_by_role("button", name="Finish now").click()
    page.get_by_role("heading", name="Sums: passed").wait_for()
    attempt.refresh_from_db()
    assert (attempt.state, attempt.score, bob.skills.count()) == ("passed", 1, 1)


@pytest.mark.parametrize("seed", range(2))
def test_shown_pressed_and_stored_agree(begin, seed):
    rng = random.Random(seed)
    page, attempt = begin(comparisons(8, safety=True))
    expected = []
    for number in range(1, 9):
        page.wait_for_url(f"**/questions/{number}")
        texts = {side: page.locator(f"#{side} .text").inner_text() for side in ("left", "right")}
        key = rng.choice("12345678")
        side, other = ("left", "right") if key in "1234" else ("right", "left")
        safe = rng.choice("qwe" if side == "left" else "rwe")
        press(page, "b", key, safe, "Enter")
        strength = STRENGTHS[int(key) - 1] if side == "left" else STRENGTHS[8 - int(key)]
        marks = {"w": (True, True), "e": (False, False)}.get(safe, (True, False))
        expected.append((texts[side], strength, marks, texts[other]))
    page.wait_for_url("**/finish")
    found = []
    for answer in attempt.answers.select_related("question"):
        sides = [(answer.question.response_a, answer.a_safe)]
        sides.append((answer.question.response_b, answer.b_safe))
        (chosen, chosen_safe), (other, other_safe) = sides if answer.choice == "a" else sides[::-1]
        found.append((chosen, answer.strength, (chosen_safe, other_safe), other))
    assert found == expected


def test_keys_are_the_persons_own(begin, bob):
    Person.objects.filter(pk=bob.pk).update(key_layout="home_row")
    page, _ = begin(comparisons(1))
    press(page, "f")
    assert page.locator("input:checked").get_attribute("value") == "left_negligibly_better"


def test_no_single_letter_keys_where_they_are_not_wanted(begin, bob):
    Person.objects.filter(pk=bob.pk).update(key_layout="none")
    page, _ = begin(quiz(2))
    press(page, "1")
    assert page.locator("input:checked").count() == 0
    press(page, "Enter")
    page.wait_for_url("**/questions/2")


def test_going_back_shows_what_is_stored(begin):
    page, _ = begin(quiz(2))
    press(page, "2", "Enter")
    page.wait_for_url("**/questions/2")
    page.get_by_role("button", name="Previous").click()
    page.wait_for_url("**/questions/1")
    assert page.locator("input:checked").get_attribute("value") == "1"


def test_a_text_is_stored_while_it_is_written(begin):
    page, attempt = begin(writing(2, minutes=5))
    page.locator("textarea").fill("1 and Q are letters here.")
    page.get_by_text("Saved").wait_for()
    assert attempt.answers.get(position=1).text == "1 and Q are letters here."
    assert "25 of 20000" in page.locator("#length").inner_text()


def test_the_clock_tells_politely_and_the_end_sends_what_is_there(begin):
    page, attempt = begin(quiz(2, minutes=5, pass_mark=0.5))
    page.clock.install()
    Attempt.objects.update(ends_at=timezone.now() + timedelta(seconds=180))
    page.reload()
    assert "left" in page.locator("#clock").inner_text()
    page.clock.fast_forward(125_000)
    page.get_by_text("1 minute left.").wait_for()
    assert page.locator("#time-news").get_attribute("role") == "status"
    press(page, "2")
    Attempt.objects.update(ends_at=timezone.now())
    page.clock.fast_forward(60_000)
    page.get_by_role("heading", name="Sums: passed").wait_for()
    attempt.refresh_from_db()
    assert (attempt.score, attempt.finished_at) == (0.5, attempt.ends_at)


def test_without_its_script_the_page_still_works(begin, chromium, live_server):
    page, attempt = begin(comparisons(1))
    context = chromium.new_context(java_script_enabled=False)
    context.add_cookies(page.context.cookies(live_server.url))
    plain = context.new_page()
    plain.goto(page.url)
    plain.locator("label.preference").nth(1).click()
    plain.locator("#submit").click()
    plain.get_by_role("button", name="Finish now").click()
    plain.get_by_text("To pass").wait_for()
    context.close()
    assert attempt.answers.get().strength == "better"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [None, PHONE])
def test_every_page_is_accessible_and_fits(go, page, alice, bob, charlie, scheme, size):
    page.emulate_media(color_scheme=scheme)
    if size:
        page.set_viewport_size(size)
    long = "Wordwithoutanyend" * 12
    made = publish(
        alice,
        quiz(2, minutes=5, introduction="Read *well*.", pass_mark=0, most_attempts=2),
        comparisons(2, safety=True, minutes=5, pass_mark=0),
        writing(2, minutes=5, ask=1),
    )
    for number, gate in enumerate(made.gates.all(), start=1):
        steps = [
            reverse("qualifications"),
            reverse("qualification", args=[made.pk]),
            reverse("gate", args=[gate.pk]),
        ]
        for address in steps:
            go(address)
            assert (violations(page), fits(page)) == ([], True), address
        attempt = Attempt.begin(gate, bob)
        go(reverse("attempt", args=[attempt.pk]))
        assert (violations(page), fits(page)) == ([], True), gate.kind
        if gate.kind == "comparisons":
            press(page, "b", "2", "r", "Enter")
            page.get_by_text("marked unsafe and the other").wait_for()
            assert (violations(page), fits(page)) == ([], True), "error"
        if gate.is_writing:
            write(attempt, 1)
            attempt.answer(1, text=long)
        go(reverse("finish_attempt", args=[attempt.pk]))
        assert (violations(page), fits(page)) == ([], True), f"finish {number}"
        attempt.finish()
        go(reverse("attempt", args=[attempt.pk]))
        assert (violations(page), fits(page)) == ([], True), f"result {number}"
    Attempt.begin(made.gates.first(), charlie)
    text = attempt.answers.given().get()
    for address in (
        reverse("qualifications"),
        reverse("qualification", args=[made.pk]),
        reverse("grading"),
        reverse("grade", args=[text.pk]),
        reverse("qualification_results", args=[made.pk]),
        reverse("new_qualification") + "?example=1",
    ):
        go(address, alice)
        assert (violations(page), fits(page)) == ([], True), address
