"""The pages of a live dialogue, and the whole of one in a real browser."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app import snapshots, storage
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Organisation,
    Person,
    RunningTurn,
)
from reward.preferences import read_pairs
from tests.annotation_app.rows import comparison, open_batch
from tests.annotation_app.talking import (
    QUESTION,
    Talker,
    in_pieces,
    next_turn,
    page_of,
    turn,
)
from tests.annotation_app.views.axe import PHONE, fits, violations

START = reverse("start_dialogue", args=["helpfulness"])


# --- the pages ------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_it_works(as_bob, bob):
    batch = open_batch(comparisons=0)
    page = as_bob.get(START).content.decode()
    assert 'data-ask="/live/helpfulness/begin"' in page
    assert 'data-origin="http://testserver:8002"' in page
    assert "Risk category" not in page
    annotation = turn(bob, batch, "b")
    page = as_bob.get(page_of(annotation)).content.decode()
    body = page.split('aria-label="Dialogue"')[1]
    assert body.index(QUESTION) < body.index("I do not know.")
    assert "Two years." not in page
    assert f"/live/dialogues/{annotation.comparison.prompt.dialogue_id}/go-on" in page
    assert reverse("revise", args=[annotation.pk]) in page


@pytest.mark.django_db
def test_only_this_page_may_talk_to_the_live_process(as_bob, settings):
    open_batch()
    policy = as_bob.get(START).headers["Content-Security-Policy"]
    assert "connect-src 'self' http://testserver:8002;" in policy + ";"
    assert "unsafe" not in policy
    other = as_bob.get(reverse("annotate_next", args=["helpfulness"]))
    assert "8002" not in other.headers["Content-Security-Policy"]
    settings.LIVE_URL = "https://tandem.example"
    page = as_bob.get(START)
    assert "connect-src 'self' https://tandem.example" in page.headers["Content-Security-Policy"]
    assert 'data-origin="https://tandem.example"' in page.content.decode()


@pytest.mark.django_db
def test_a_safety_dialogue_asks_for_its_risk_and_warns(as_bob):
    Organisation.objects.create(pk=1, safety_warning="These texts may upset you.")
    open_batch("safety")
    page = as_bob.get(reverse("start_dialogue", args=["safety"])).content.decode()
    for words in ("Risk category", "Attack vector", "These texts may upset you."):
        assert words in page


@pytest.mark.django_db
def test_a_turn_that_waits_is_judged_first(as_bob, bob):
    annotation = turn(bob, open_batch(comparisons=0))
    answer = as_bob.get(page_of(annotation))
    assert answer.url == reverse("annotation", args=[annotation.pk])


@pytest.mark.django_db
def test_a_dialogue_whose_first_turn_was_skipped_begins_anew(as_bob, bob):
    annotation = turn(bob, open_batch(comparisons=0))
    annotation.skip()
    answer = as_bob.get(page_of(annotation), follow=True)
    assert answer.redirect_chain[-1][0] == START
    assert "nothing to go on with" in answer.content.decode()


@pytest.mark.django_db
def test_a_turn_stands_alone_on_its_judging_page(as_bob, bob):
    batch = open_batch()
    annotation = turn(bob, batch)
    page = as_bob.get(reverse("annotation", args=[annotation.pk])).content.decode()
    assert "data-next" not in page
    assert f'data-done="{page_of(annotation)}"' in page
    assert "Leave the dialogue" in page
    other = Annotation.objects.lease_next(Person.objects.create_user("eve"), batch)
    assert other.comparison != annotation.comparison


@pytest.mark.django_db
@pytest.mark.parametrize("verb", ["record", "skip", "flag", "revise"])
@pytest.mark.parametrize("script", [True, False])
def test_after_a_turn_the_dialogue_goes_on(as_bob, bob, verb, script):
    annotation = turn(bob, open_batch(), choice="a" if verb == "revise" else "")
    dialogue = annotation.comparison.prompt.dialogue_id
    headers = {"Accept": "application/json"} if script else {}
    fields = {"preference": "left_better", "dialogue": dialogue}
    answer = as_bob.post(reverse(verb, args=[annotation.pk]), fields, headers=headers)
    if script:
        assert (answer.json()["next"], answer.json()["why"]) == (None, "The dialogue goes on.")
    else:
        assert answer.url == reverse("dialogue", args=[dialogue])
    assert not Annotation.objects.filter(state="leased").exists()  # nothing reserved beside it


@pytest.mark.django_db
def test_the_ordinary_way_leads_to_a_turn_that_waits(as_bob, bob):
    batch = open_batch()
    annotation = turn(bob, batch)
    answer = as_bob.get(reverse("annotate_next", args=["helpfulness"]))
    assert answer.url == reverse("annotation", args=[annotation.pk])
    assert Annotation.objects.get().state == "leased"  # nothing else was drawn
    annotation.record(choice="a", strength="better")
    assert as_bob.get(reverse("annotate_next", args=["helpfulness"])).status_code == 200


@pytest.mark.django_db
def test_a_turn_is_never_brought_as_the_next_card(as_bob, bob):
    batch = open_batch()
    first = Annotation.objects.lease_next(bob, batch)
    waiting = turn(bob, batch)
    as_script = {"Accept": "application/json"}
    ahead = reverse("next_card", args=["helpfulness"])
    answer = as_bob.post(ahead, {"shown": first.pk}, headers=as_script).json()
    assert (answer["next"], answer["why"]) == (None, "A turn of your dialogue waits to be judged.")
    for verb, fields in (("record", {"preference": "left_better"}), ("skip", {})):
        answer = as_bob.post(reverse(verb, args=[first.pk]), fields, headers=as_script).json()
        assert answer["saved"]["id"] == first.pk
        assert (answer["next"], answer["why"][:6]) == (None, "A turn")
        Annotation.objects.filter(pk=first.pk).update(state="leased", choice="")
    waiting.refresh_from_db()
    assert waiting.state == "leased"


@pytest.mark.django_db
@pytest.mark.parametrize("purpose", ["re-serve", "reference"])
def test_a_probe_with_a_turn_of_ones_own_is_no_turn(as_bob, bob, purpose):
    annotation = turn(bob, open_batch(), "a")
    probe = Annotation.objects.create(
        comparison=annotation.comparison, batch=annotation.batch, annotator=bob, purpose=purpose,
        shown_left="a", leased_at=annotation.leased_at,
        lease_expires_at=annotation.lease_expires_at,
    )  # fmt: skip
    page = as_bob.get(reverse("annotate_next", args=["helpfulness"]))
    assert page.status_code == 200
    assert f'data-annotation="{probe.pk}"' in page.content.decode()
    assert "data-dialogue" not in page.content.decode()


@pytest.mark.django_db
def test_a_turn_that_came_back_after_its_reservation_counts_as_judged(as_bob, bob):
    batch = open_batch(comparisons=0)
    first = turn(bob, batch)
    first.release()
    again = Annotation.objects.lease_next(bob, batch)
    assert again.comparison == first.comparison
    again.record(choice="a", strength="better")
    page = as_bob.get(page_of(first)).content.decode()
    assert "Go on with the dialogue" in page
    assert page.count(QUESTION) == 1  # in the dialogue, and not in the box once more


@pytest.mark.django_db
def test_someone_elses_dialogue(client, bob, charlie):
    annotation = turn(bob, open_batch(comparisons=0), "a")
    client.force_login(charlie)
    answer = client.get(page_of(annotation))
    assert answer.status_code == 403
    assert "belongs to someone else" in answer.content.decode()
    assert QUESTION not in answer.content.decode()
    assert client.get(reverse("dialogue", args=[999_999])).status_code == 404


@pytest.mark.django_db
def test_dialogues_of_nobody_are_not_for_anybody(as_bob):
    prompt = comparison(open_batch(), QUESTION).prompt
    assert as_bob.get(reverse("dialogue", args=[prompt.dialogue_id])).status_code == 403


@pytest.mark.django_db
def test_strangers_are_sent_to_the_sign_in(client, db):
    assert client.get(START).url == f"{reverse('sign_in')}?next={START}"


@pytest.mark.django_db
def test_empty_states_say_why(as_bob, bob):
    assert "No helpfulness batch is open" in as_bob.get(START).content.decode()
    batch = open_batch()
    annotation = turn(bob, batch, "a")
    Batch.objects.update(takes_written_prompts=False)
    for address in (START, page_of(annotation)):
        assert "takes no written messages" in as_bob.get(address).content.decode()
    bob.pause("Please call me.")
    assert "Please call me." in as_bob.get(START).content.decode()
    batch.close()
    assert as_bob.get(page_of(annotation)).status_code == 200


@pytest.mark.django_db
def test_the_pages_change_nothing(as_bob, bob):
    annotation = turn(bob, open_batch(), "a")
    as_bob.get(START)
    as_bob.get(page_of(annotation))
    assert Annotation.objects.count() == 1
    for address in (START, page_of(annotation)):
        assert as_bob.post(address, {"text": QUESTION}).status_code == 405


@pytest.mark.django_db
@pytest.mark.parametrize("turns", [1, 6])
def test_a_dialogue_costs_a_fixed_number_of_queries(as_bob, bob, turns, django_assert_num_queries):
    batch = open_batch(comparisons=0)
    annotation = turn(bob, batch, "a")
    for _ in range(turns - 1):
        annotation = next_turn(annotation)
    as_bob.get(page_of(annotation))
    with django_assert_num_queries(10):
        as_bob.get(page_of(annotation))


@pytest.mark.django_db
def test_exported_pairs_know_their_turn_and_their_parent(bob, settings, tmp_path):
    settings.STORAGE_ROOT, settings.HOLDOUT_SHARE = tmp_path, 0.0
    first = turn(bob, open_batch(comparisons=0), "b")
    third = next_turn(next_turn(first))
    snapshot = snapshots.write_snapshot("helpfulness")
    pairs = list(read_pairs(storage.path(snapshot.storage_key) / "pairs.jsonl"))
    assert [pair.turn for pair in pairs] == [1, 2, 3]
    assert [pair.parent for pair in pairs] == [None, pairs[0].id, pairs[1].id]
    assert len({pair.dialogue for pair in pairs}) == len({pair.root for pair in pairs}) == 1
    assert [message.content for message in pairs[2].prompt] == [
        QUESTION, "I do not know.", "And then?", "Rinse.", "And then?",
    ]  # fmt: skip
    assert pairs[1].prompt[1].content == pairs[0].chosen
    assert third.comparison.prompt.turn == 3


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def talk(page, live_server, client, bob, talker, process, settings):
    """Bob's window: call it with an address and it stands there."""
    settings.PORT, settings.LIVE_PORT = live_server.thread.port, process.port
    client.force_login(bob)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])

    def go(address: str = START):
        page.goto(live_server.url + address)
        page.locator("#send:enabled").wait_for()
        return page

    return go


def send(page, text: str = QUESTION) -> None:
    page.locator("#message textarea").fill(text)
    page.keyboard.press("Control+Enter")


def endless(talker: Talker) -> None:
    talker.says(
        starter_a=lambda body: in_pieces("one way is vinegar and " * 500, 0.01),
        starter_b=lambda body: in_pieces("the other way is lemon " * 500, 0.01),
    )


def test_a_dialogue_of_two_turns_by_keys_alone(talk, talker):
    open_batch(comparisons=3)
    page = talk()
    for number in (1, 2):
        talker.says(starter_a=f"Vinegar helps, {number}.", starter_b=f"Use lemon juice, {number}.")
        send(page, f"Question {number}?")
        page.wait_for_url("**/annotations/*")
        assert f"Question {number}?" in page.locator("[data-part=prompt]").text_content()
        annotation = Annotation.objects.get(state="leased")
        left = annotation.comparison.response(annotation.shown_left).text
        assert page.locator("[data-part=left]").text_content() == left
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.wait_for_url("**/dialogues/*")
        assert left in page.locator(".dialogue").inner_text()
    first, second = Comparison.objects.order_by("pk")[3:]
    assert second.prompt.parent == first.response(first.continued_with)
    assert second.prompt.messages[1]["content"] == second.prompt.parent.text
    assert Annotation.objects.recorded().count() == Annotation.objects.count() == 2


def test_both_texts_grow_side_by_side(talk, talker):
    open_batch(comparisons=0)
    endless(talker)
    page = talk()
    send(page)
    page.wait_for_function("() => document.getElementById('right-text').textContent.length > 60")
    lengths = page.evaluate(
        "() => [...document.querySelectorAll('.side .text')].map((side) => side.textContent.length)"
    )
    assert lengths[0] == lengths[1]
    assert "Both are answering" in page.locator("#status").inner_text()
    assert page.locator("#asked").inner_text() == QUESTION
    page.keyboard.press("Escape")
    page.wait_for_url("**/annotations/*")
    annotation = Annotation.objects.get()
    assert annotation.comparison.response_a.finish_reason == "stopped"
    assert len(annotation.comparison.response_a.text) == len(annotation.comparison.response_b.text)


def test_what_models_say_stays_text(talk, talker):
    open_batch(comparisons=0)
    hostile = (
        "<img src=x onerror=alert(1)> **bold** <script>alert(1)</script> " + "and so on " * 500
    )
    talker.says(
        starter_a=lambda body: in_pieces(hostile, 0.01),
        starter_b=lambda body: in_pieces("quite " + hostile, 0.01),
    )
    page = talk()
    send(page)
    page.wait_for_function("() => document.getElementById('left-text').textContent.length > 90")
    assert "<img src=x onerror=alert(1)> **bold** <script>" in page.locator("#answers").inner_text()
    assert page.locator("#answers img, #answers script, #answers strong").count() == 0
    page.keyboard.press("Escape")
    page.wait_for_url("**/annotations/*")


def test_a_refused_message_is_kept(talk, settings):
    open_batch(comparisons=0)
    page = talk()
    send(page, " ")
    assert "Write a message first." in page.locator("#error").inner_text()
    settings.SAMPLER_URL = "http://127.0.0.1:9"
    send(page)
    page.get_by_text("The models cannot be reached right now").wait_for()
    assert page.locator("#message textarea").input_value() == QUESTION
    page.reload()
    assert page.locator("#message textarea").input_value() == QUESTION
    assert not Comparison.objects.exists()


def test_what_is_far_too_long_is_kept_and_said(talk, talker):
    open_batch(comparisons=0)
    page = talk()
    long = "x" * 6_000_000  # more than the browser keeps for a tab
    page.locator("#message textarea").evaluate("(box, text) => { box.value = text; }", long)
    page.locator("#send").click()
    page.get_by_text("The message is too long: at most 20000 characters.").wait_for()
    assert page.locator("#message textarea").input_value() == long
    assert not talker.requests


def test_without_the_live_process_the_message_is_kept(talk, settings):
    open_batch(comparisons=0)
    settings.LIVE_URL = "http://127.0.0.1:9"
    page = talk()
    send(page)
    page.get_by_text("The models' service cannot be reached").wait_for()
    assert page.locator("#message textarea").input_value() == QUESTION


def test_two_presses_ask_once_and_a_second_tab_is_told(talk, talker, live_server):
    open_batch(comparisons=0)
    endless(talker)
    page = talk()
    page.locator("#message textarea").fill(QUESTION)
    page.evaluate("() => [1, 2].forEach(() => document.getElementById('message').requestSubmit())")
    page.wait_for_function("() => document.getElementById('left-text').textContent")
    assert len(talker.requests) == 2
    second = page.context.new_page()
    second.goto(live_server.url + START)
    send(second)
    second.get_by_text("answering another message of yours").wait_for()
    page.locator("#stop").click()
    page.wait_for_url("**/annotations/*")
    assert Comparison.objects.count() == 1


def test_leaving_the_page_stores_nothing(talk, talker):
    open_batch(comparisons=0)
    endless(talker)
    page = talk()
    send(page)
    page.wait_for_function("() => document.getElementById('left-text').textContent")
    page.goto("about:blank")
    for _ in range(100):
        if not RunningTurn.objects.exists() and talker.left_alone == 2:
            break
        page.wait_for_timeout(50)
    assert talker.left_alone == 2
    assert not Comparison.objects.exists()
    page.go_back()
    assert page.locator("#message textarea").input_value() == QUESTION


def test_undo_and_skip_lead_back_to_the_dialogue(talk, talker):
    open_batch(comparisons=3)
    page = talk()
    send(page)
    page.wait_for_url("**/annotations/*")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/dialogues/*")
    page.get_by_role("link", name="Change the last judgement").click()
    page.wait_for_url("**/revise")
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    page.wait_for_url("**/dialogues/*")
    old, new = Annotation.objects.order_by("pk")
    assert (old.state, new.state) == ("superseded", "recorded")
    assert old.choice != new.choice
    chosen = new.comparison.response(new.choice).text
    assert chosen in page.locator(".dialogue").inner_text()
    send(page, "And then?")
    page.wait_for_url("**/annotations/*")
    page.get_by_role("button", name="Skip").click()
    page.wait_for_url("**/dialogues/*")
    assert page.locator("#message textarea").input_value() == "And then?"
    assert not Annotation.objects.filter(state="leased").exists()


def test_from_the_ordinary_page_to_a_waiting_turn_and_into_its_dialogue(talk, bob, live_server):
    batch = open_batch(comparisons=5)
    page = talk()
    page.goto(live_server.url + reverse("annotate_next", args=["helpfulness"]))
    page.wait_for_function("() => document.querySelector('#saved')")
    waiting = turn(bob, batch)  # as another tab makes it
    for _ in range(3):
        if page.url.endswith(f"/annotations/{waiting.pk}"):
            break
        before = page.locator("#card").inner_html()
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "before => document.getElementById('card')?.innerHTML !== before", arg=before
        )
        page.wait_for_load_state()
    page.wait_for_url(f"**/annotations/{waiting.pk}")
    page.wait_for_timeout(300)
    assert list(Annotation.objects.filter(state="leased")) == [waiting]  # nothing prefetched
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{page_of(waiting)}")
    waiting.refresh_from_db()
    assert waiting.state == "recorded"


def test_safety_texts_are_veiled_as_on_the_judging_page(talk, talker):
    Organisation.objects.create(
        pk=1, safety_warning="These texts may upset you.", safety_is_veiled=True
    )
    open_batch("safety", comparisons=0)
    endless(talker)
    page = talk(reverse("start_dialogue", args=["safety"]))
    send(page)
    page.wait_for_function("() => document.getElementById('left-text').textContent")
    assert "veiled" in page.locator("#answers").get_attribute("class")
    page.get_by_role("button", name="Show the texts").click()
    assert "veiled" not in page.locator("#answers").get_attribute("class")
    page.keyboard.press("Escape")
    page.wait_for_url("**/annotations/*show=1")
    assert page.locator("#veil").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 900}], ids=["phone", "desktop"])
def test_axe_finds_nothing_and_nothing_overflows(talk, talker, bob, scheme, size):
    batch = open_batch("safety", comparisons=0)
    endless(talker)
    first = turn(bob, batch)
    first.record(choice="a", strength="better", a_safe=True, b_safe=True)
    for address in (reverse("start_dialogue", args=["safety"]), page_of(first)):
        page = talk(address)
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=scheme)
        for _ in ("writing", "answering"):
            assert violations(page) == []
            assert fits(page)
            if page.locator("#message").is_visible():
                send(page, "A long word: " + "x" * 300)
                page.wait_for_function("() => document.getElementById('left-text').textContent")
        page.goto("about:blank")
        while RunningTurn.objects.exists():
            page.wait_for_timeout(20)
