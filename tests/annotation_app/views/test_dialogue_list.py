"""/annotate: the dialogues that a person has left and can go on with."""

from __future__ import annotations

import pytest
from django.urls import reverse
from django.utils.html import escape

from annotation_app.models import Annotation, Batch, Organisation
from tests.annotation_app.rows import open_batch
from tests.annotation_app.talking import QUESTION, next_turn, page_of, turn
from tests.annotation_app.views.axe import PHONE, fits, violations

pytestmark = pytest.mark.django_db
LIST = reverse("annotate")
WAITS = "Two answers wait for your judgement."


def listed(client) -> str:
    """The page's section of dialogues, empty where there is none."""
    return client.get(LIST).content.decode().partition("Go on with a dialogue")[2]


def test_it_works(as_bob, bob):
    batch = open_batch(comparisons=0)
    assert listed(as_bob) == ""
    second = next_turn(turn(bob, batch, "b"))
    page = listed(as_bob)
    assert f'href="{page_of(second)}"' in page
    assert QUESTION in page
    assert f"2 turns, {second.leased_at:%-d %b %H:%M} UTC" in page
    assert WAITS not in page
    assert as_bob.get(page_of(second)).status_code == 200


def test_the_latest_stands_first(as_bob, bob):
    batch = open_batch(comparisons=0)
    old, *_ = [turn(bob, batch, "a", f"Question {n}?") for n in range(3)]
    page = listed(as_bob)
    assert page.index("Question 2") < page.index("Question 1") < page.index("Question 0")
    next_turn(old)
    page = listed(as_bob)
    assert page.index("Question 0") < page.index("Question 2") < page.index("Question 1")


def test_a_turn_that_waits_is_found_again(as_bob, bob):
    annotation = turn(bob, open_batch(comparisons=0))
    assert WAITS in listed(as_bob)
    assert as_bob.get(page_of(annotation)).url == reverse("annotation", args=[annotation.pk])


@pytest.mark.parametrize("taken", [True, False])
def test_a_first_turn_whose_reservation_has_ended_can_be_judged_late(client, bob, charlie, taken):
    batch = open_batch(comparisons=0)
    annotation = turn(bob, batch)
    annotation.release()
    if taken:
        Annotation.objects.lease_next(charlie, batch).record(choice="a", strength="better")
    client.force_login(bob)
    assert WAITS in listed(client)
    answer = client.get(page_of(annotation), follow=True)
    assert answer.redirect_chain[-1][0] == reverse("annotation", args=[annotation.pk])
    fields = {"preference": "left_better", "dialogue": annotation.comparison.prompt.dialogue_id}
    client.post(reverse("record", args=[annotation.pk]), fields)
    annotation.refresh_from_db()
    assert annotation.state == ("surplus" if taken else "recorded")
    page = client.get(page_of(annotation)).content.decode()
    assert "Go on with the dialogue" in page
    assert WAITS not in listed(client)


def test_what_leads_nowhere_is_not_offered(as_bob, bob):
    batch = open_batch(comparisons=0)
    turn(bob, batch).skip()
    turn(bob, batch).flag("nonsense")
    turn(bob, batch, "a").exclude("spam")
    assert listed(as_bob) == ""


def test_a_skipped_turn_leaves_the_dialogue_where_it_was(as_bob, bob):
    first = turn(bob, open_batch(comparisons=0), "a")
    second = next_turn(first)
    Annotation.objects.filter(pk=second.pk).update(state="skipped")
    assert "1 turn," in listed(as_bob)
    assert "And then?" in as_bob.get(page_of(first)).content.decode()


def test_a_revised_turn_counts_once(as_bob, bob):
    first = turn(bob, open_batch(comparisons=0), "a")
    first.revise(choice="b", strength="better")
    page = listed(as_bob)
    assert page.count("<li>") == page.count("1 turn,") == 1


def test_only_ones_own_of_the_open_batch(client, bob, charlie):
    old = open_batch(comparisons=0)
    turn(bob, old, "a", "An old question?")
    Batch.objects.filter(pk=old.pk).update(state="closed")
    batch = open_batch(comparisons=0)
    turn(charlie, batch, "a", "A question of Charlie's?")
    client.force_login(bob)
    assert listed(client) == ""
    client.force_login(charlie)
    assert escape("A question of Charlie's?") in listed(client)


def test_someone_elses_dialogue_that_one_has_judged_is_not_ones_own(client, bob, charlie):
    batch = open_batch(comparisons=0, overlap=2)
    turn(charlie, batch, "a")
    Annotation.objects.lease_next(bob, batch).record(choice="a", strength="better")
    client.force_login(bob)
    assert listed(client) == ""


def test_a_batch_that_takes_no_messages_offers_no_dialogue(as_bob, bob):
    turn(bob, open_batch(comparisons=0), "a")
    Batch.objects.update(takes_written_prompts=False)
    assert listed(as_bob) == ""


@pytest.mark.parametrize("veiled", [True, False])
def test_safety_texts_are_hidden_where_the_organisation_veils_them(as_bob, bob, veiled):
    Organisation.objects.create(pk=1, safety_warning="Careful.", safety_is_veiled=veiled)
    first = turn(bob, open_batch("safety", comparisons=0))
    first.record(choice="a", strength="better", a_safe=True, b_safe=True)
    turn(bob, open_batch("helpfulness", comparisons=0), "a", "A harmless question?")
    page = as_bob.get(LIST).content.decode()
    assert (QUESTION in page) is not veiled
    assert (f"Dialogue of 1 turn, {first.leased_at:%-d %b %H:%M} UTC" in page) is veiled
    assert "A harmless question?" in page


def test_long_and_hostile_first_words(as_bob, bob):
    hostile = "<script>alert(1)</script> \U0001fad6 " + "x" * 20_000
    turn(bob, open_batch(comparisons=0), "a", hostile)
    page = listed(as_bob)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \U0001fad6" in page
    assert "<script>alert" not in page
    assert "x" * 101 not in page


def test_many_dialogues_cost_as_much_as_one(as_bob, bob, django_assert_num_queries):
    batch = open_batch(comparisons=0)
    for number in range(12):
        last = next_turn(turn(bob, batch, "a", f"Question {number}?"))
    page = listed(as_bob)
    assert page.count("<li>") == 10
    assert page_of(last) in page
    assert "your latest 10 in all" in page
    with django_assert_num_queries(6):
        as_bob.get(LIST)
    Annotation.objects.exclude(comparison=last.comparison).update(state="skipped")
    with django_assert_num_queries(6):
        as_bob.get(LIST)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size",
    [PHONE, {"width": 1280, "height": 900}],
    ids=["phone", "desktop"],
)
@pytest.mark.django_db(transaction=True)
def test_by_keys_to_an_older_one(page, live_server, client, bob, scheme, size):
    batch = open_batch(comparisons=0)
    oldest, *_ = [turn(bob, batch, "a", f"{'x' * 150} {n}?") for n in range(10)]
    client.force_login(bob)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    page.goto(live_server.url + LIST)
    assert page.locator(".dialogues a").filter(visible=True).count() == 3
    page.locator("details > summary").focus()
    page.keyboard.press("Enter")
    assert page.locator(".dialogues a").filter(visible=True).count() == 10
    assert violations(page) == []
    assert fits(page)
    page.locator(".dialogues a").last.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{page_of(oldest)}")
