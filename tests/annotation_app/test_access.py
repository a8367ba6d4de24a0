"""Who has to sign in first, where they go on, and a form's address opened as a page."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = pytest.mark.django_db
START = "/rounds/start"


def page_after(answer) -> str:
    """Where the sign-in page that was answered with leads to."""
    page = urlsplit(answer.url)
    assert page.path == "/sign-in"
    return parse_qs(page.query)["next"][0]


@pytest.mark.parametrize(
    ("referer", "page"),
    [
        ("http://testserver/rounds?page=2", "/rounds?page=2"),
        ("http://elsewhere.example/rounds", "/"),
        ("http://testserver.example/rounds", "/"),
        ("", "/"),
    ],
)
def test_who_was_signed_out_comes_back_to_the_page_with_the_form(client, referer, page):
    answer = client.post(START, headers={"Referer": referer})
    assert page_after(answer) == page
    signing_in = client.get(answer.url).content.decode()
    assert "You were signed out, and nothing was changed. Do it again." in signing_in


def test_who_asks_for_a_page_comes_to_it(client):
    assert page_after(client.get("/rounds?page=2")) == "/rounds?page=2"


def test_a_script_is_told_its_own_address(client):
    answer = client.post(
        START, headers={"Referer": "http://testserver/rounds", "Accept": "application/json"}
    )
    assert page_after(answer) == START


def test_a_forms_address_opened_as_a_page_says_so(client, dora):
    client.force_login(dora)
    answer = client.get(START)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert (
        f"{START} was asked with GET, allowed is POST: nothing was changed."
        in answer.content.decode()
    )
