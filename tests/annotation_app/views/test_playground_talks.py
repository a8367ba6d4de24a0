"""Talks in the playground, in a browser."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
from django.urls import reverse

from annotation_app import storage
from annotation_app.models import RunningTurn
from tests.annotation_app.talking import in_pieces
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.test_live import wait_for
from tests.reward.chat_server import Answer, chat_server

pytestmark = pytest.mark.django_db(transaction=True)

ADDRESS = reverse("playground")
QUESTION = "How do I descale my kettle?"


@pytest.fixture
def play(page, live_server, client, alice, models, rewards, process, settings):
    """Alice's window: call it with a query and it stands there."""
    settings.PORT, settings.LIVE_PORT = live_server.thread.port, process.port
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])

    def go(query: str = ""):
        page.goto(live_server.url + ADDRESS + query)
        page.locator("#send:enabled").wait_for()
        return page

    return go


def send(page, text: str = QUESTION) -> None:
    page.locator("#text").fill(text)
    page.keyboard.press("Enter")


def done(page) -> None:
    page.get_by_text("Done.", exact=True).wait_for()


def said(page) -> list[list[str]]:
    """What stands on the screen: the answers of each exchange."""
    return [
        exchange.locator(".said").all_text_contents()
        for exchange in page.locator(".exchange").all()
    ]


def histories(talker, last: int) -> list[list[str]]:
    """The texts that each of the last so many requests brought, the first model's first."""
    asked = sorted(talker.requests[-last:], key=lambda body: body["model"])
    return [[m["content"] for m in body["messages"]] for body in asked]


def test_a_talk_by_keys_alone(play, talker):
    page = play()
    talker.says(starter_a="With vinegar.", starter_b="Use lemon juice, and rinse it well.")
    page.keyboard.type("How do I")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("descale my kettle?")
    page.keyboard.press("Enter")
    done(page)
    assert talker.requests[0]["messages"][0]["content"] == "How do I\ndescale my kettle?"
    assert said(page) == [["With vinegar.", "Use lemon juice, and rinse it well."]]
    assert page.locator(".side h2").all_text_contents() == [
        "starter-a, tiny, released", "starter-b, tiny",
    ]  # fmt: skip
    rows = page.locator(".side.left .scores tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [
        ["Helpfulness", "0.894", "2.13"], ["Safety", "0.054", "−2.87"],
        ["Combined,", "safety", "decides", "0.054", "−2.87"],
    ]  # fmt: skip
    assert page.locator("#text").input_value() == ""
    assert page.evaluate("document.activeElement.id") == "text"


def test_both_go_on_each_from_its_own_or_from_one(play, talker):
    page = play()
    talker.says(starter_a="A one.", starter_b="B one.")
    send(page, "First?")
    done(page)
    assert "each model from its own" in page.locator("#from").inner_text()
    talker.says(starter_a="A two.", starter_b="B two.")
    send(page, "Second?")
    page.get_by_text("B two.").wait_for()
    done(page)
    assert histories(talker, 2) == [
        ["First?", "A one.", "Second?"],
        ["First?", "B one.", "Second?"],
    ]
    page.locator(".exchange").last.get_by_role("button", name="Go on from this one").last.click()
    assert "from the right answer, for both models" in page.locator("#from").inner_text()
    send(page, "Third?")
    page.locator(".exchange").nth(2).locator(".scores").last.wait_for()
    done(page)
    assert histories(talker, 2) == [["First?", "B one.", "Second?", "B two.", "Third?"]] * 2
    picked = page.locator(".exchange").last.get_by_role("button", name="Go on from this one").first
    picked.click()
    assert picked.get_attribute("aria-pressed") == "true"
    picked.click()
    assert picked.get_attribute("aria-pressed") == "false"


def test_edit_and_send_again(play, talker):
    page = play()
    for number in (1, 2):
        talker.says(starter_a=f"A {number}.", starter_b=f"B {number}.")
        send(page, f"Question {number}?")
        page.get_by_text(f"B {number}.").wait_for()
        done(page)
    page.get_by_role("button", name="Edit and send again").first.click()
    assert page.locator("#text").input_value() == "Question 1?"
    assert page.locator(".exchange.dropped").count() == 2
    page.keyboard.press("Escape")
    assert page.locator(".exchange.dropped").count() == 0
    page.get_by_role("button", name="Edit and send again").first.click()
    talker.says(starter_a="A new.", starter_b="B new.")
    send(page, "Question one?")
    page.get_by_text("B new.").wait_for()
    done(page)
    assert said(page) == [["A new.", "B new."]]
    assert histories(talker, 2) == [["Question one?"]] * 2


def test_regenerate_draws_another_seed(play, talker):
    page = play("?seed=5")
    send(page)
    done(page)
    page.get_by_role("button", name="Regenerate").click()
    wait_for(lambda: len(talker.requests) == 4, "two more answers")
    done(page)
    assert {body["seed"] for body in talker.requests[:2]} == {5}
    assert 5 not in {body["seed"] for body in talker.requests[2:]}
    assert page.locator(".exchange").count() == 1
    assert histories(talker, 4) == [[QUESTION]] * 4


def test_escape_stops_and_what_stands_is_scored(play, talker):
    page = play()
    talker.script = lambda body: in_pieces("endless " * 5000, 0.01)
    send(page)
    page.wait_for_function("() => document.querySelectorAll('.said')[1]?.textContent.length > 40")
    assert "Both are answering" in page.locator("#status").inner_text()
    page.keyboard.press("Escape")
    done(page)
    assert page.locator(".facts").first.inner_text().endswith("stopped")
    assert page.locator(".scores:visible").count() == 2
    talker.says(starter_a="A.", starter_b="B.")
    send(page, "Go on.")
    page.get_by_text("B.", exact=True).wait_for()
    assert histories(talker, 2)[0][1].startswith("endless")


def test_escape_while_it_is_scored(play, talker, settings):
    page = play()
    with chat_server(lambda request: Answer(b"{}", wait_seconds=30)) as server:
        settings.SCORER_URL = server.address
        send(page)
        page.get_by_text("The reward models score").wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("Stopped without scores.").wait_for()
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")
    assert page.locator(".exchange").count() == 1


def test_one_alone_takes_the_whole_width(play, talker):
    page = play("?right=")
    send(page)
    done(page)
    assert page.locator(".side").count() == 1
    side, whole = (page.locator(at).bounding_box()["width"] for at in (".side", ".exchanges"))
    assert side == pytest.approx(whole, abs=2)
    assert page.get_by_role("button", name="Go on from this one").count() == 0
    assert len(talker.requests) == 1
    page.locator("#id_right").select_option(index=1)
    assert "for both models" in page.locator("#from").inner_text()
    send(page, "And then?")
    wait_for(lambda: len(talker.requests) == 3, "both")
    first = page.locator(".said").first.text_content()
    assert histories(talker, 2) == [[QUESTION, first, "And then?"]] * 2


def address_of(page) -> str:
    """The query as the page has it now; ``page.url`` hears of it a little later."""
    return str(page.evaluate("location.search.slice(1)"))


def test_the_address_follows_the_settings(play, models):
    page = play()
    page.locator("#id_temperature").fill("0.4")
    page.locator("#id_right").select_option("")
    page.locator("#id_system").fill("Be kind & brief.")
    page.get_by_label("Combine the scores as of a safety prompt").check()
    query = parse_qs(address_of(page), keep_blank_values=True)
    assert (query["temperature"], query["right"], query["is_safety"]) == (["0.4"], [""], ["on"])
    assert query["system"] == ["Be kind & brief."]
    page.reload()
    page.locator("#send:enabled").wait_for()
    assert page.locator("#id_system").input_value() == "Be kind & brief."
    assert page.locator("#id_right").input_value() == ""
    page.locator("#id_system").fill("x" * 5000)
    assert "system" not in parse_qs(address_of(page))
    assert "too long for the address" in page.locator("#link").inner_text()
    page.reload()
    page.locator("#send:enabled").wait_for()


def test_what_models_say_stays_text(play, talker):
    hostile = "<img src=x onerror=alert(1)> **bold** <script>alert(1)</script>"
    talker.says(starter_a=hostile, starter_b="</section><h1>x")
    page = play()
    send(page, hostile)
    done(page)
    assert said(page) == [[hostile, "</section><h1>x"]]
    assert page.locator("#exchanges img, #exchanges script, #exchanges h1").count() == 0


def test_a_refused_message_changes_nothing(play, talker, settings, models):
    page = play()
    send(page, " ")
    assert "Write a message first." in page.locator("#error").inner_text()
    send(page, "x" * 20_001)
    page.get_by_text("The message has 20001 characters, allowed are at most 20000.").wait_for()
    assert len(page.locator("#text").input_value()) == 20_001
    assert page.locator(".exchange").count() == 0
    send(page)
    done(page)
    (storage.path(models[0].storage_key) / "config.json").unlink()
    before = said(page)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("The first chat model is not there any more").wait_for()
    assert said(page) == before
    page.get_by_role("button", name="Edit and send again").click()
    send(page, "Edited?")
    page.get_by_text("The first chat model is not there any more").wait_for()
    assert said(page) == before
    assert page.locator("#text").input_value() == "Edited?"
    (storage.path(models[0].storage_key) / "config.json").write_text("{}")
    page.keyboard.press("Escape")
    send(page, "And then?")
    done(page)
    assert histories(talker, 2) == [[QUESTION, answer, "And then?"] for answer in before[0]]


def test_a_live_process_that_is_gone(play, settings, live_server):
    settings.LIVE_PORT = 9
    page = play()
    send(page)
    page.get_by_text("The models' service cannot be reached right now").wait_for()
    assert page.locator("#text").input_value() == QUESTION
    assert page.locator(".exchange").count() == 0


def test_a_model_that_fails_and_a_reward_server_that_is_down(play, talker, settings):
    settings.SCORER_URL = "http://127.0.0.1:9"
    talker.says(starter_a="With vinegar.", starter_b=lambda body: iter(["Half"]))
    page = play()
    send(page)
    done(page)
    assert "the answer broke off" in page.locator(".side.right .failed").inner_text()
    assert "so there are no scores" in page.locator("#missing").inner_text()
    assert page.locator(".scores:visible").count() == 0
    assert "from the left answer, for both models" in page.locator("#from").inner_text()
    talker.says(starter_a="A.", starter_b="B.")
    send(page, "And then?")
    page.get_by_text("B.", exact=True).wait_for()
    assert histories(talker, 2) == [[QUESTION, "With vinegar.", "And then?"]] * 2


def test_where_nobody_answered_there_is_nothing_to_go_on_from(play, talker):
    talker.says(starter_a="", starter_b="  ")
    page = play()
    send(page)
    done(page)
    assert page.locator(".failed").all_inner_texts() == ["The answer is empty."] * 2
    send(page, "And then?")
    assert "No answer can be gone on from" in page.locator("#error").inner_text()
    talker.says(starter_a="A.", starter_b="B.")
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("B.", exact=True).wait_for()
    done(page)
    assert page.locator("#text").input_value() == "And then?"


def test_start_anew(play, talker):
    page = play()
    send(page)
    done(page)
    page.get_by_role("button", name="Start anew").click()
    assert page.locator(".exchange").count() == 0
    assert page.get_by_role("button", name="Regenerate").is_disabled()
    send(page, "Again?")
    done(page)
    assert histories(talker, 2) == [["Again?"]] * 2


def test_a_tab_that_is_left_ends_both_requests(play, talker):
    talker.script = lambda body: in_pieces("endless " * 5000, 0.01)
    page = play()
    send(page)
    page.wait_for_function("() => document.querySelector('.said')?.textContent")
    page.goto("about:blank")
    for _ in range(100):
        if talker.left_alone == 2 and not RunningTurn.objects.exists():
            break
        page.wait_for_timeout(50)
    assert talker.left_alone == 2
    assert not RunningTurn.objects.exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 900}], ids=["phone", "desktop"])
def test_axe_finds_nothing_and_nothing_overflows(play, talker, scheme, size):
    long = "A long word: " + "x" * 300
    talker.says(starter_a=long, starter_b=lambda body: iter(["Half"]))
    page = play()
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    assert (violations(page), fits(page)) == ([], True)
    send(page, long)
    done(page)
    assert (violations(page), fits(page)) == ([], True)
    page.get_by_role("button", name="Edit and send again").click()
    assert (violations(page), fits(page)) == ([], True)
