"""/rounds/<pk>/samples: answers before and after as text."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.urls import reverse

from annotation_app import exchange
from annotation_app.models import Organisation
from reward.lines import whole_records, write_records
from tests.annotation_app.played import begun, played
from tests.annotation_app.views.axe import PHONE, fits, violations

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


def get(client, round_, **query):
    return client.get(reverse("samples", args=[round_.pk]), query)


def shown(client, round_, **query) -> str:
    return unescape(get(client, round_, **query).content.decode())


def numbers(page: str) -> list[int]:
    return [int(number) for number in re.findall(r"<p>Question (\d+)\?</p>", page)]


def test_it_works(as_alice):
    """The gain of prompt n grows with n; every third is a safety prompt."""
    round_ = played()
    page = shown(as_alice, round_, kind="helpfulness")
    assert numbers(page) == [27, 24, 21, 18, 15, 12, 9, 6]
    assert "10 of 30 prompts." in page
    assert "Old answer 27." in page
    assert "New answer 27." in page
    assert "Page 1 of 2" in page
    assert numbers(shown(as_alice, round_, kind="helpfulness", page=2)) == [3, 0]
    assert numbers(shown(as_alice, round_, kind="helpfulness", order="fall"))[:2] == [0, 3]


def test_both_scores_and_refusals_stand_beside_the_texts(as_alice):
    round_ = played()
    page = shown(as_alice, round_, kind="borderline")
    record = next(it for it in whole_records(_file(round_)) if it["prompt_id"] == "test-25")
    card = next(part for part in page.split("<article") if "Question 25?" in part)
    for score in ("combined", "helpfulness", "safety"):
        gain = record["after"][score] - record["before"][score]
        told = f"{record['before'][score]:.4g} → {record['after'][score]:.4g}"
        assert f"<strong>{score.capitalize()}</strong> {told.replace('-', '−')}" in card
        assert f"{gain:+.3g}".replace("-", "−") in card
    before, after = card.split("<h3>After")
    assert "refuses" in before
    assert "refuses" not in after


def _file(round_):
    return exchange.run_folder(round_.runs.get(kind="evaluate")).path / "responses.jsonl"


def test_a_draw_can_be_drawn_again(as_alice):
    round_ = played()
    page = shown(as_alice, round_, kind="helpfulness", order="random")
    again = re.search(r'href="\?([^"]+)">Draw again', page)[1]
    other = as_alice.get(reverse("samples", args=[round_.pk]) + "?" + again)
    assert sorted(numbers(page)) != numbers(page)
    assert numbers(other.content.decode()) != numbers(page)
    assert "draw=2" in other.content.decode()


def test_pages_keep_what_was_asked_for(as_alice):
    page = shown(as_alice, played(), kind="helpfulness", order="fall", score="safety")
    following = re.search(r'href="\?([^"]+)">Next', page)[1]
    assert following == "kind=helpfulness&order=fall&score=safety&page=2"


def test_safety_texts_wait_to_be_asked_for(as_alice):
    round_ = played()
    page = shown(as_alice, round_, kind="adversarial")
    assert "New answer" not in page
    assert "Show the texts" in page
    assert "New answer" in shown(as_alice, round_, kind="adversarial", show="1")
    Organisation.objects.update_or_create(pk=1, defaults={"safety_is_veiled": False})
    assert "New answer" in shown(as_alice, round_, kind="adversarial")


def test_answers_are_hostile_input(as_alice):
    round_ = played()
    lines = whole_records(_file(round_))
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> [x](javascript:alert(3))"
    for line in lines:
        line["request"] = line["after"]["text"] = evil
        line["prompt_id"] = evil
    write_records(_file(round_), lines)
    page = get(as_alice, round_, kind="helpfulness").content.decode()
    for bad in ("<script>alert", "<img", 'href="javascript'):
        assert bad not in page
    assert page.count("&lt;script&gt;") >= 16


def test_there_is_nothing_to_read_yet(as_alice):
    running = begun()
    assert "the round has not been evaluated yet" in shown(as_alice, running)
    running.end_cancelled()
    round_ = played()
    _file(round_).unlink()
    assert "has left its answers" in shown(as_alice, round_)
    assert "Read answers before" not in as_alice.get(f"/rounds/{round_.pk}").content.decode()


def test_a_sort_of_prompts_that_was_not_asked(as_alice):
    round_ = played()
    lines = [it for it in whole_records(_file(round_)) if it["kind"] == "helpfulness"]
    write_records(_file(round_), lines)
    assert "asked no such prompts" in shown(as_alice, round_, kind="borderline")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"kind": "all"}, "There are no such prompts."),
        ({"order": "x' OR 1=1"}, "There is no such order."),
        ({"score": "length"}, "There is no such score."),
        ({"draw": "-1"}, "greater than or equal to 0"),
        ({"draw": "9" * 5000}, "nter a whole number"),
    ],
)
def test_nonsense_is_refused(as_alice, query, sentence):
    answer = get(as_alice, played(), **query)
    assert answer.status_code == 400
    assert sentence in unescape(answer.content.decode())


def test_a_page_beyond_the_last_is_the_last(as_alice):
    round_ = played()
    assert "Page 2 of 2" in shown(as_alice, round_, kind="helpfulness", page=99)
    assert "Page 1 of 2" in shown(as_alice, round_, kind="helpfulness", page="x")


def test_nobody_else_reads_it(client, bob, rita):
    round_ = played()
    for who in (bob, rita):
        client.force_login(who)
        assert get(client, round_).status_code == 403
    client.logout()
    assert get(client, round_).status_code == 302


def test_queries_do_not_grow_with_answers(as_alice, django_assert_max_num_queries):
    round_ = played()
    with django_assert_max_num_queries(6):
        get(as_alice, round_)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_axe_finds(page, live_server, client, alice, scheme):
    round_ = played()
    lines = whole_records(_file(round_))
    for line in lines:
        line["after"]["text"] = "| a | b |\n|---|---|\n| " + "long" * 60 + " | 2 |\n\n" + "x" * 400
    write_records(_file(round_), lines)
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme=scheme)
    address = live_server.url + reverse("samples", args=[round_.pk])
    for size in (PHONE, {"width": 1280, "height": 900}):
        page.set_viewport_size(size)
        for query in ("?kind=helpfulness", "?kind=adversarial", "?kind=nonsense"):
            page.goto(address + query)
            assert (violations(page), fits(page)) == ([], True), (query, size)
