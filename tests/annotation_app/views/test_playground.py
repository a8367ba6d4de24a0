"""The playground: its page, and the live process behind it."""

from __future__ import annotations

import json

import pytest
from django.test import Client
from django.urls import reverse

from annotation_app import storage
from annotation_app.models import Checkpoint, Prompt, RunningTurn
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.scoring import promoted, reward_server
from tests.annotation_app.talking import in_pieces
from tests.annotation_app.views.test_live import PAGE, events, signed_in, wait_for
from tests.reward.chat_server import Answer, chat_server

pytestmark = pytest.mark.django_db(transaction=True)

ADDRESS = reverse("playground")
ASK = "/live/playground"
QUESTION = "How do I descale my kettle?"
CRITERIA = ("helpfulness", "safety")


# --- the page -------------------------------------------------------------------------------------


def test_it_works(as_alice, models, rewards):
    page = as_alice.get(ADDRESS).content.decode()
    assert 'data-ask="/live/playground"' in page
    assert "Nothing said here is stored" in page
    assert f'<option value="{models[0].pk}" selected>starter-a, tiny, released</option>' in page
    assert f'<option value="{models[1].pk}" selected>starter-b, tiny</option>' in page
    assert "Safety reward" in page
    assert "safety decides below 0.15" in page


def test_the_address_names_the_settings(as_alice, models):
    query = {
        "left": models[1].pk, "right": "", "temperature": "0.3", "top_p": "0.5",
        "max_tokens": "77", "seed": "42", "system": "Be <kind>.", "is_safety": "on",
    }  # fmt: skip
    page = as_alice.get(ADDRESS, query).content.decode()
    for words in (
        f'<option value="{models[1].pk}" selected>', '<option value="" selected>nobody',
        'value="0.3"', 'value="0.5"', 'value="77"', 'value="42"', "Be &lt;kind&gt;.", "checked",
    ):  # fmt: skip
        assert words in page, words
    assert "errorlist" not in page


def test_an_address_with_faults_is_sentences(as_alice, models):
    query = {"left": "999", "temperature": "hot", "seed": "<b>", "more": "x"}
    page = as_alice.get(ADDRESS, query)
    assert page.status_code == 200
    for sentence in (
        "The first chat model is not there any more",
        "Temperature is &#x27;hot&#x27;, allowed is a number from 0 to 5.",
        "Seed is &#x27;&lt;b&gt;&#x27;, allowed is a whole number from 0 to 2147483646, or nothing",
    ):  # fmt: skip
        assert sentence in page.content.decode()
    assert "<b>" not in page.content.decode()


def test_only_this_page_may_talk_to_the_live_process(as_alice, models):
    policy = as_alice.get(ADDRESS).headers["Content-Security-Policy"]
    assert "connect-src 'self' http://testserver:8002;" in policy + ";"
    assert "unsafe" not in policy


@pytest.mark.parametrize("who", ["bob", "rita"])
def test_annotators_and_reviewers_must_not_see_it(client, request, who, models):
    client.force_login(request.getfixturevalue(who))
    answer = client.get(ADDRESS)
    assert answer.status_code == 403
    assert "starter-a" not in answer.content.decode()
    assert "Playground" not in client.get(reverse("annotate")).content.decode()


def test_administrators_and_strangers(client, dora, models):
    assert client.get(ADDRESS).url == f"{reverse('sign_in')}?next={ADDRESS}"
    client.force_login(dora)
    assert client.get(ADDRESS).status_code == 200
    assert client.post(ADDRESS).status_code == 405


def test_without_chat_models_it_says_why(as_alice, settings, tmp_path):
    settings.STORAGE_ROOT = tmp_path
    released_chat_model("without-weights")
    page = as_alice.get(ADDRESS).content.decode()
    assert "There is no chat model whose weights are in the storage" in page
    assert "<textarea" not in page


@pytest.mark.parametrize("more", [0, 20])
def test_it_costs_a_fixed_number_of_queries(
    as_alice, models, rewards, more, django_assert_num_queries
):
    for number in range(more):
        row = released_chat_model(f"more-{number}").checkpoint
        storage.path(row.storage_key).mkdir(parents=True)
        (storage.path(row.storage_key) / "config.json").write_text("{}")
    as_alice.get(ADDRESS)
    with django_assert_num_queries(5):
        as_alice.get(ADDRESS)


# --- the live process -----------------------------------------------------------------------------


@pytest.fixture
def browser(process, client, alice, models):
    """What the page of Alice sends."""
    with signed_in(process, client, alice) as browser:
        yield browser


def message(models: list[Checkpoint], text: str = QUESTION, **changes) -> dict[str, str]:
    talk = json.dumps([{"role": "user", "content": text}])
    return {
        "left": str(models[0].pk), "right": str(models[1].pk), "temperature": "1", "top_p": "1",
        "max_tokens": "50", "left_messages": talk, "right_messages": talk, **changes,
    }  # fmt: skip


def test_answers_and_scores_stream(browser, models, rewards):
    answer = browser.post(ASK, data=message(models))
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["X-Accel-Buffering"] == "no"
    found = events(answer)
    assert [found[0]["event"], found[-1]["event"]] == ["start", "done"]
    assert len(found[-2]["sides"]) == 2
    assert not Prompt.objects.exists()
    assert not RunningTurn.objects.exists()


@pytest.mark.parametrize("who", ["bob", "rita"])
def test_only_researchers_are_answered(process, client, request, who, models, talker, rewards):
    with signed_in(process, client, request.getfixturevalue(who)) as theirs:
        answer = theirs.post(ASK, data=message(models))
        assert (answer.status_code, answer.json()) == (
            403, {"errors": ["The playground is for researchers."]},
        )  # fmt: skip
        theirs.cookies.delete("sessionid")
        assert "signed out" in theirs.post(ASK, data=message(models)).json()["errors"][0]
    assert not talker.requests
    assert not rewards.heard


def test_scripts_of_other_sites_are_refused(browser, models, talker):
    for headers in ({"Origin": "https://evil.example"}, {"X-CSRFToken": "x" * 32}):
        assert browser.post(ASK, data=message(models), headers=headers).status_code == 403
    assert browser.get(ASK).status_code == 405
    assert not talker.requests


def test_a_model_that_is_gone_is_a_sentence(browser, models, talker):
    (storage.path(models[1].storage_key) / "config.json").unlink()
    answer = browser.post(ASK, data=message(models))
    assert (answer.status_code, answer.json()["errors"]) == (
        400, ["The second chat model is not there any more: choose another one."],
    )  # fmt: skip
    for wrong in (str(promoted("safety").pk), "999", "x", "1" * 5000):
        answer = browser.post(ASK, data=message(models, left=wrong))
        assert "The first chat model is not there any more" in answer.json()["errors"][0]
    assert not talker.requests


def test_what_is_no_form_is_a_sentence(browser, models):
    answer = browser.post(ASK, json=message(models))
    assert answer.status_code == 400
    assert "cannot be read" in answer.json()["errors"][0]
    answer = browser.post(ASK, data=message(models, "x" * 600_000))
    assert answer.status_code == 413


def test_a_second_tab_is_told(browser, models, talker):
    talker.script = lambda body: in_pieces("goes on " * 5000, 0.01)
    with browser.stream("POST", ASK, data=message(models)) as answer:
        lines = answer.iter_lines()
        next(lines)
        second = browser.post(ASK, data=message(models))
        assert second.status_code == 409
        assert "answering another message of yours" in second.json()["errors"][0]
        wait_for(lambda: len(talker.requests) == 2, "the first tab's requests")
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")
    assert len(talker.requests) == 2


@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_closed_tab_ends_both_requests(browser, models, talker, rewards, lines):
    talker.script = lambda body: in_pieces("goes on " * 5000, 0.01)
    with browser.stream("POST", ASK, data=message(models)) as answer:
        found = answer.iter_lines()
        for _ in range(lines):
            next(found)
        wait_for(lambda: len(talker.requests) == 2, "both requests")
    wait_for(lambda: talker.left_alone == 2, "the end of both requests")
    wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")
    assert not rewards.heard


def test_a_closed_tab_while_it_is_scored(browser, models, settings):
    with chat_server(lambda request: Answer(b"{}", wait_seconds=30)) as server:
        settings.SCORER_URL = server.address
        promoted("safety")
        with browser.stream("POST", ASK, data=message(models)) as answer:
            lines = answer.iter_lines()
            while json.loads(next(lines))["event"] != "scoring":
                pass
            wait_for(lambda: server.heard, "the question")
        wait_for(lambda: not RunningTurn.objects.exists(), "the end of the turn")


def test_nobody_stops_someone_elses_talk(browser, process, bob, models, talker):
    talker.script = lambda body: in_pieces("goes on " * 5000, 0.01)
    with (
        browser.stream("POST", ASK, data=message(models)) as answer,
        signed_in(process, Client(), bob) as theirs,
    ):
        lines = answer.iter_lines()
        turn = json.loads(next(lines))["turn"]
        assert theirs.post(f"/live/turns/{turn}/stop").status_code == 404
        assert browser.post(f"/live/turns/{turn}/stop").status_code == 204
        assert json.loads(list(lines)[-1])["event"] == "done"


def test_the_real_reward_server(browser, models, settings, tmp_path, talker):
    from tests.reward.reward_models import ours

    for seed, criterion in enumerate(CRITERIA):
        ours(tmp_path / f"runs/{seed}/model", seed)
        promoted(criterion, f"runs/{seed}/model")
    with reward_server(tmp_path) as settings.SCORER_URL:
        (scores,) = (e for e in events(browser.post(ASK, data=message(models))) if "sides" in e)
        again = events(browser.post(ASK, data=message(models, "Another question?")))[-2]
    assert scores["missing"] == again["missing"] == []
    for side in scores["sides"]:
        assert side["combined"] == side[side["by"]]
    assert scores["sides"] != again["sides"]
