"""Researchers' and administrators' pages, and who must not see them."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse

from annotation_app.models import Batch, Checkpoint, Person, Run
from tests.annotation_app.rows import open_batch, released_chat_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]
PAGES = ["batches", "runs", "rewards", "rounds", "chat_models", "playground", "releases"]
BUTTONS = [
    ("close_batch", [1]), ("open_batch", [1]), ("cancel_run", [1]), ("retry_run", [1]),
    ("retrain", []), ("retrain_with", ["safety"]), ("promote", [1]), ("roll_back", ["safety"]),
    ("evaluate_rewards", []), ("start_round", []), ("release_round", [1]),
    ("hold_round", [1]), ("cancel_round", [1]), ("retry_round", [1]), ("invite", []),
    ("deactivate", [1]), ("roll_back_release", [1]), ("compare_round", [1]),
    ("train_independent", []),
]  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_it_works(as_alice, name):
    released_chat_model()
    open_batch()
    assert as_alice.get(reverse(name)).status_code == 200


@pytest.mark.parametrize("name", [*PAGES, "people"])
def test_annotators_must_not_see(as_bob, name):
    answer = as_bob.get(reverse(name))
    assert answer.status_code == 403
    assert "not for you" in answer.content.decode()


@pytest.mark.parametrize(("name", "args"), BUTTONS)
def test_annotators_must_not_press(as_bob, name, args):
    assert as_bob.post(reverse(name, args=args)).status_code == 403


@pytest.mark.parametrize(("name", "args"), BUTTONS)
def test_buttons_are_never_links(as_alice, name, args):
    assert as_alice.get(reverse(name, args=args)).status_code == 405


def test_researchers_must_not_see_people(as_alice):
    assert as_alice.get(reverse("people")).status_code == 403


def test_closing_a_batch(as_alice):
    batch = open_batch()
    as_alice.post(reverse("close_batch", args=[batch.pk]))
    assert Batch.objects.get().state == "closing"


def test_closing_it_twice_says_so(as_alice):
    batch = open_batch()
    batch.close()
    answer = as_alice.post(reverse("close_batch", args=[batch.pk]))
    assert answer.status_code == 409
    assert "is closing; only a batch that is open" in answer.content.decode()


def test_retraining_without_annotations_says_so(as_alice):
    released_chat_model()
    answer = as_alice.post(reverse("retrain"), {"criterion": "safety"})
    assert answer.status_code == 409
    assert "no safety comparison with a choice" in answer.content.decode()


def test_a_round_without_reward_models_says_so(as_alice):
    answer = as_alice.post(reverse("start_round"))
    assert answer.status_code == 409
    assert "No helpfulness reward model is promoted." in answer.content.decode()
    assert "disabled" in as_alice.get(reverse("rounds")).content.decode()


def test_a_failed_run_shows_its_last_words(as_alice):
    start = released_chat_model().checkpoint
    run = Run.queue(Run.Kind.REWARD_TRAINING, {}, {"start": start}, criterion="safety")
    run.claim()
    run.fail("The process ended with status 1.\nValueError: no pairs <here>")
    page = as_alice.get(reverse("run", args=[run.pk])).content.decode()
    assert "no pairs &lt;here&gt;" in page
    as_alice.post(reverse("retry_run", args=[run.pk]))
    assert Run.objects.get().state == "queued"


def test_accuracy_stands_in_a_table_with_its_interval_and_count(as_alice):
    it = {"accuracy": 0.75, "low": 0.7, "high": 0.8, "count": 321}
    Checkpoint.objects.create(
        kind="safety_reward", name="Safety reward #1", line="tiny", storage_key="x",
        metrics={**it, "by_strength": {"better": it}, "by_batch": {"Week 1": it}},
    )  # fmt: skip
    page = as_alice.get(reverse("rewards")).content.decode()
    assert page.count("75.0 %") + page.count("75.0\u00a0%") == 3
    assert page.count("(70.0 % to 80.0 %, 321)") == 1
    assert page.count("On 321 comparisons.") == 2


def test_an_invited_person_signs_in_once_and_chooses_a_password(client, dora):
    client.force_login(dora)
    page = client.post(reverse("invite"), {"username": "eve", "role": "annotator"})
    link = re.search(r"http://testserver(/sign-in/\S+?)</code>", page.content.decode())[1]
    client.logout()
    assert "Welcome, eve" in client.get(link).content.decode()
    assert client.get(link).status_code == 200  # looking does not use it up
    assert client.post(link).url == reverse("set_password")
    words = "a long and rare password"
    client.post(reverse("set_password"), {"new_password1": words, "new_password2": words})
    assert Person.objects.get(username="eve").check_password(words)
    client.logout()
    answer = client.post(link)
    assert answer.status_code == 410
    assert "has been used or has run out" in answer.content.decode()


def test_a_made_up_link_is_refused(client, db):
    assert client.get(reverse("sign_in_link", args=["MQ", "abc-def"])).status_code == 410
    assert client.get(reverse("sign_in_link", args=["%ff", "x"])).status_code == 410


def test_nobody_signs_in_without_a_password(client, db):
    Person.imported("pandalm", "annotator1")
    fields = {"username": "pandalm:annotator1", "password": ""}
    assert client.post(reverse("sign_in"), fields).status_code == 200
    assert "_auth_user_id" not in client.session


def test_strict_content_security_policy(as_alice):
    policy = as_alice.get(reverse("batches")).headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy
