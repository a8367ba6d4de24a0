"""The judging page in a real browser: keys, what comes next, and what must never be lost."""

from __future__ import annotations

import random

import pytest
from django.urls import reverse

from annotation_app import snapshots, storage
from annotation_app.models import Annotation, Guideline, Person, Side
from reward.preferences import read_pairs
from tests.annotation_app.rows import comparison, open_batch
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import press

pytestmark = pytest.mark.django_db(transaction=True)
STRENGTHS = ["significantly_better", "better", "slightly_better", "negligibly_better"]


@pytest.fixture
def judge(page, live_server, client, bob):
    """Bob's window: call it with a criterion and it stands on the first comparison."""
    client.force_login(bob)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])

    def go(criterion: str = "helpfulness", unveil: bool = True):
        page.goto(live_server.url + reverse("annotate_next", args=[criterion]))
        page.wait_for_function("() => document.querySelector('#card [data-annotation]')")
        if unveil and page.locator("#unveil-all").count():
            page.locator("#unveil-all").check()
            page.keyboard.press("b")
        return page

    return go


def shown(page) -> Annotation:
    return Annotation.objects.get(
        pk=page.locator("[data-annotation]").get_attribute("data-annotation")
    )


def saved(page, annotation: Annotation) -> Annotation:
    """Wait for the server's word that this annotation is stored, and read the row."""
    page.wait_for_function(
        "n => document.getElementById('saved').textContent.includes(`#${n}`)", arg=annotation.pk
    )
    annotation.refresh_from_db()
    return annotation


def wait_until(page, holds):
    """Ask until the answer is true, and return it; the browser goes on meanwhile."""
    for _ in range(400):
        if found := holds():
            return found
        page.wait_for_timeout(50)
    raise AssertionError("it did not come true within 20 seconds")


def ahead(page) -> Annotation:
    """Wait until the comparison after the one on the screen is reserved."""
    first = shown(page)
    leased = Annotation.objects.filter(state="leased").exclude(pk=first.pk)
    found = wait_until(page, leased.first)
    page.wait_for_load_state("networkidle")  # the browser has it too
    return found


def test_three_keys_make_an_annotation(judge):
    open_batch("safety")
    page = judge("safety")
    first = shown(page)
    press(page, "2", "q", "Enter")
    stored = saved(page, first)
    assert (stored.state, stored.strength) == ("recorded", "better")
    assert stored.choice == stored.shown_left
    assert {stored.a_safe, stored.b_safe} == {True, False}
    assert shown(page).pk != first.pk
    assert page.locator("#judgement input:checked").count() == 0


def test_the_next_comparison_is_already_there(judge):
    open_batch()
    page = judge()
    second = ahead(page)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    press(page, "1", "Enter")
    assert shown(page) == second
    page.wait_for_timeout(300)
    assert [url for url in requests if not url.endswith("/record")] == []


def test_what_was_reserved_ahead_is_given_back(judge):
    open_batch()
    page = judge()
    second = ahead(page)
    page.goto("about:blank")
    for _ in range(100):
        second.refresh_from_db()
        if second.state == "expired":
            break
        page.wait_for_timeout(50)
    assert second.state == "expired"


def test_last_comparison_ends_in_the_reason(judge):
    open_batch(comparisons=1)
    page = judge()
    press(page, "1", "Enter")
    page.get_by_text("judged everything there is").wait_for()


def test_nothing_chosen_stays_with_a_sentence(judge):
    open_batch()
    page = judge()
    press(page, "Enter")
    assert "Choose which response is better" in page.locator("#errors").inner_text()
    assert not Annotation.objects.recorded().exists()


def test_contradiction_is_refused_before_it_is_sent(judge):
    open_batch("safety")
    page = judge("safety")
    press(page, "1", "r", "Enter")
    assert "marked unsafe and the other one safe" in page.locator("#errors").inner_text()
    assert not Annotation.objects.recorded().exists()


def test_keys_do_not_fire_while_typing(judge):
    open_batch()
    page = judge()
    press(page, "f")
    page.keyboard.type("12 s both empty")
    assert page.locator("#flag-reason").input_value() == "12 s both empty"
    first = shown(page)
    press(page, "Enter")
    page.wait_for_function(
        "n => document.querySelector(`[data-annotation]`).dataset.annotation != n",
        arg=str(first.pk),
    )
    wait_until(page, lambda: Annotation.objects.filter(pk=first.pk, state="flagged").exists())
    first.refresh_from_db()
    assert (first.state, first.reason) == ("flagged", "12 s both empty")
    assert page.locator("#judgement input:checked").count() == 0


@pytest.mark.parametrize(("layout", "keys"), [("home_row", "fk"), ("azerty", "1é")])
def test_keys_are_the_persons_own(judge, bob, layout, keys):
    Person.objects.filter(pk=bob.pk).update(key_layout=layout)
    open_batch()
    page = judge()
    press(page, keys[0])
    expected = "left_negligibly_better" if layout == "home_row" else "left_significantly_better"
    assert page.locator("input:checked").get_attribute("value") == expected


def test_undo_before_and_after_it_was_stored(judge):
    open_batch()
    page = judge()
    first = shown(page)
    ahead(page)
    press(page, "1", "Enter")
    saved(page, first)
    press(page, "u")
    page.get_by_text("open again").wait_for()
    assert shown(page) == first
    press(page, "7", "Enter")
    page.get_by_text(f"in place of #{first.pk}").wait_for()
    first.refresh_from_db()
    again = first.superseded_by
    assert (first.state, first.strength) == ("superseded", "significantly_better")
    assert (again.state, again.strength, again.slot) == ("recorded", "better", first.slot)
    assert again.choice == Side(again.shown_left).other
    assert Annotation.objects.recorded().count() == 1


def test_lost_network_loses_nothing_and_doubles_nothing(judge):
    open_batch(comparisons=6)
    page = judge()
    first, second = shown(page), ahead(page)
    page.context.set_offline(True)
    press(page, "1", "Enter")
    page.get_by_text("cannot be reached").wait_for()
    assert shown(page) == second
    press(page, "2", "Enter")
    assert not Annotation.objects.recorded().exists()
    page.context.set_offline(False)
    saved(page, second)
    assert {a.pk for a in Annotation.objects.recorded()} == {first.pk, second.pk}
    page.wait_for_function(
        "n => Number(document.querySelector('[data-annotation]').dataset.annotation) > n",
        arg=second.pk,
    )


def test_closed_tab_sends_its_answer_when_it_comes_back(judge):
    open_batch(comparisons=6)
    page = judge()
    first = shown(page)
    ahead(page)
    page.context.set_offline(True)
    press(page, "1", "Enter")
    page.get_by_text("cannot be reached").wait_for()
    page.goto("about:blank")
    page.context.set_offline(False)
    judge()
    page.wait_for_function(
        "n => document.querySelector('[data-annotation]').dataset.annotation !== n",
        arg=str(first.pk),
    )
    # Which page sends it is open: the one that is going tries again until it is gone.
    wait_until(page, lambda: Annotation.objects.recorded().exists())
    first.refresh_from_db()
    assert (first.state, first.strength) == ("recorded", "significantly_better")
    assert Annotation.objects.recorded().count() == 1


def test_answer_whose_reply_was_lost_is_stored_once(judge):
    open_batch(comparisons=6)
    page = judge()
    first = shown(page)
    lost = []

    def lose(route):
        route.fetch()
        lost.append(route.request.url)
        route.abort()

    page.route("**/record", lose, times=1)
    press(page, "1", "Enter")
    saved(page, first)
    assert len(lost) == 1
    assert Annotation.objects.recorded().count() == 1


def test_drafts_survive_and_are_never_sent_by_themselves(judge):
    open_batch()
    page = judge()
    first = shown(page)
    press(page, "3")
    page.reload()
    assert shown(page) == first
    assert page.locator("input:checked").get_attribute("value") == "left_slightly_better"
    assert not Annotation.objects.recorded().exists()


def test_double_press_answers_once(judge):
    open_batch(comparisons=6)
    page = judge()
    first = shown(page)
    press(page, "1", "Enter", "Enter")
    saved(page, first)
    assert Annotation.objects.recorded().count() == 1


def test_two_tabs_never_store_twice(judge, live_server):
    open_batch(comparisons=6)
    page = judge()
    other = page.context.new_page()
    other.goto(page.url)
    first = shown(page)
    press(other, "1", "Enter")
    other.get_by_text("Saved").wait_for()
    press(page, "8", "Enter")
    page.get_by_text("this other one was not stored").wait_for()
    found = Annotation.objects.filter(comparison=first.comparison).values_list("state", flat=True)
    assert list(found) == ["recorded"]


def test_going_back_shows_what_is_stored(judge):
    open_batch(comparisons=1)
    page = judge()
    press(page, "1", "Enter")
    page.get_by_text("judged everything").wait_for()
    page.go_back()
    page.wait_for_load_state()
    assert page.locator("#submit:enabled").count() == 0


def test_difference_raw_and_scrolling_together(judge):
    batch = open_batch(comparisons=0)
    comparison(batch, "Q?", a="one **two** three\n" * 60, b="one **four** three\n" * 60)
    page = judge()
    press(page, "d")
    assert page.locator("#left mark").first.inner_text() in ("**two**", "**four**")
    press(page, "d", "m")
    assert "**" in page.locator("#left").inner_text()
    press(page, "m", "y")
    page.locator("#left").evaluate("pane => { pane.scrollTop = 200 }")
    page.wait_for_function("() => document.getElementById('right').scrollTop === 200")


def test_looking_and_idling_are_counted_apart(judge):
    open_batch()
    page = judge()
    first = shown(page)
    page.locator("#left").hover()
    page.wait_for_timeout(1200)
    page.locator("#right").hover()
    page.wait_for_timeout(600)
    press(page, "1", "Enter")
    stored = saved(page, first)
    left, right = stored.a_seconds, stored.b_seconds
    if stored.shown_left == "b":
        left, right = right, left
    assert stored.idle_seconds == 0
    assert left >= 1.0
    assert right >= 0.5
    assert left + right < stored.active_seconds + 0.15  # each is rounded


def test_phone_wants_both_sides_seen(judge):
    open_batch()
    page = judge()
    page.set_viewport_size(PHONE)
    page.reload()
    first = shown(page)
    press(page, "1", "Enter")
    assert "Look at both responses first" in page.locator("#errors").inner_text()
    page.locator("[data-look=right]").click()
    page.wait_for_function(
        "() => document.querySelector('[data-look=right]').getAttribute('aria-pressed') === 'true'"
    )
    page.locator("#submit").click()
    assert saved(page, first).state == "recorded"
    assert fits(page)


def test_without_its_script_the_page_still_works(judge, chromium, page, live_server):
    open_batch()
    context = chromium.new_context(java_script_enabled=False)
    context.add_cookies(page.context.cookies(live_server.url) or [])
    judge()
    context.add_cookies(page.context.cookies(live_server.url))
    plain = context.new_page()
    plain.goto(live_server.url + reverse("annotate_next", args=["helpfulness"]))
    plain.locator("label.preference").nth(1).click()
    plain.get_by_role("button", name="Submit").click()
    plain.get_by_text("Saved").wait_for()
    assert Annotation.objects.recorded().count() == 1
    context.close()


def test_safety_texts_are_hidden_until_asked_for(judge):
    open_batch("safety", comparisons=5)
    page = judge("safety", unveil=False)
    first = shown(page)
    press(page, "1", "w", "Enter")
    assert "show the texts" in page.locator("#errors").inner_text()
    assert "blur" in page.locator("#card").evaluate("card => getComputedStyle(card).filter")
    press(page, "b", "Enter")
    saved(page, first)
    assert "blur" in page.locator("#card").evaluate("card => getComputedStyle(card).filter")
    page.locator("#unveil-all").check()
    press(page, "b", "1", "w", "Enter")
    assert page.locator("#card").evaluate("card => getComputedStyle(card).filter") == "none"


def test_new_guidelines_arrive_with_the_next_comparison(judge, alice):
    open_batch(comparisons=6)
    page = judge()
    ahead(page)
    Guideline.publish("helpfulness", "Brand-new text.", 1, alice)
    for _ in range(2):
        first = shown(page)
        press(page, "1", "Enter")
        assert saved(page, first).guideline_version == 1
    page.get_by_text("Brand-new text.").wait_for()
    first = shown(page)
    press(page, "1", "Enter")
    assert saved(page, first).guideline_version == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(judge, scheme):
    batch = open_batch("safety", comparisons=0)
    text = "# Head\n\n| a | b |\n|---|---|\n| 1 | $x^2$ |\n\n```\ncode\n```\n\n* [link](https://example.com)"
    comparison(batch, "Q?", a=text, b="Plain.")
    page = judge("safety", unveil=False)
    page.emulate_media(color_scheme=scheme)
    for keys in (
        [],
        ["b"],
        ["?"],
        ["Escape", "f"],
        ["Escape", "1", "r", "Enter"],
        ["d"],
        ["d", "m", "y"],
    ):
        press(page, *keys)
        assert violations(page) == [], keys


@pytest.mark.parametrize("seed", range(3))
def test_shown_pressed_and_exported_agree(judge, seed):
    """Random sides, answers and safety keys: the pairs file says what the annotator saw and did."""
    rng = random.Random(seed)
    batch = open_batch("safety", comparisons=0)
    for number in range(12):
        comparison(batch, f"Question {number}?", a=f"First {number}.", b=f"Second {number}.")
    page = judge("safety")
    expected = set()
    for _ in range(12):
        before = shown(page)
        texts = {
            side: page.locator(f"#{side} .rendered").inner_text() for side in ("left", "right")
        }
        key = rng.choice("12345678")
        side, other = ("left", "right") if key in "1234" else ("right", "left")
        safe = rng.choice("qwe" if side == "left" else "rwe")
        press(page, key, safe, "Enter")
        page.wait_for_function(
            "n => document.querySelector('[data-annotation]')?.dataset.annotation !== n",
            arg=str(before.pk),
        )
        strength = STRENGTHS[int(key) - 1] if side == "left" else STRENGTHS[8 - int(key)]
        label = {"w": "both_safe", "e": "both_unsafe"}.get(safe, "chosen_safe")
        expected.add((texts[side], texts[other], strength, label))
    page.get_by_text("judged everything there is").wait_for()
    folder = storage.path(snapshots.write_snapshot("safety").storage_key)
    pairs = [*read_pairs(folder / "pairs.jsonl"), *read_pairs(folder / "holdout.jsonl")]
    assert {(p.chosen, p.rejected, p.strength, p.safety) for p in pairs} == expected


def test_a_batch_that_closes_is_said_in_time(judge, settings):
    settings.HEARTBEAT_SECONDS = 1
    batch = open_batch()
    page = judge()
    first = shown(page)
    batch.close()
    page.get_by_text("This batch is closing: send your answer before").wait_for()
    press(page, "3", "Enter")
    assert saved(page, first).state == "recorded"


def test_each_paragraph_runs_its_own_way(judge):
    """A Hebrew paragraph stands at the right, in the rendered answer and as plain text."""
    batch = open_batch(comparisons=0)
    hebrew = "\u05e9\u05e0\u05ea\u05d9\u05d9\u05dd (2)."
    comparison(batch, "How long?", f"{hebrew}\n\nTwo years.", f"Two.\n\n{hebrew}")
    page = judge()
    side = """side => [...document.querySelectorAll(`#${side} .rendered p`)].map(it => {
      const words = document.createRange();
      words.selectNodeContents(it);
      const [inner, outer] = [words.getBoundingClientRect(), it.getBoundingClientRect()];
      return inner.left - outer.left > outer.right - inner.right ? "right" : "left";
    })"""
    annotation = shown(page)
    order = [["right", "left"], ["left", "right"]]
    shown_sides = order if annotation.shown_left == "a" else order[::-1]
    assert [page.evaluate(side, it) for it in ("left", "right")] == shown_sides
