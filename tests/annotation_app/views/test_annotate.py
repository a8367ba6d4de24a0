"""/annotate and /annotations: what annotators see, send, and are refused."""

from __future__ import annotations

import pytest
from django.db import connection
from django.urls import reverse

from annotation_app.models import Annotation
from demo.client import read_comparison
from tests.annotation_app.rows import comparison, open_batch, released_chat_model

pytestmark = pytest.mark.django_db
NEXT = reverse("annotate_next", args=["helpfulness"])
NEXT_SAFETY = reverse("annotate_next", args=["safety"])
# session, person and savepoints included; PostgreSQL records and draws in one statement
QUERIES = {"page": 9, "prefetch": 9, "record": 6 if connection.vendor == "postgresql" else 10}


def leased(client, page: str = NEXT) -> Annotation:
    client.get(page)
    return Annotation.objects.get(state="leased")


def send(client, annotation: Annotation, **fields):
    return client.post(reverse("record", args=[annotation.pk]), fields)


def ask_json(client, address: str, **fields):
    answer = client.post(address, fields, headers={"Accept": "application/json"})
    return answer.json()


def test_it_works(as_bob):
    open_batch()
    page = as_bob.get(NEXT).content.decode()
    assert "Two years." in page
    assert "I do not know." in page
    annotation = Annotation.objects.get()
    answer = send(as_bob, annotation, preference="left_better", active_seconds="4.5")
    assert answer.url == NEXT
    annotation.refresh_from_db()
    assert (annotation.state, annotation.strength, annotation.active_seconds) == (
        "recorded",
        "better",
        4.5,
    )
    assert f"#{annotation.pk}" in as_bob.get(NEXT).content.decode()


@pytest.mark.parametrize("shown_left", ["a", "b"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_was_shown_and_pressed_is_what_is_stored(as_bob, shown_left, side):
    open_batch("safety", comparisons=1)
    annotation = leased(as_bob, NEXT_SAFETY)
    Annotation.objects.update(shown_left=shown_left)
    shown = read_comparison(as_bob.get(NEXT_SAFETY).content.decode())
    safe = {"safe": side}
    send(as_bob, annotation, preference=f"{side}_slightly_better", **safe)
    annotation.refresh_from_db()
    chosen = annotation.comparison.response(annotation.choice)
    assert chosen.text == (shown.left if side == "left" else shown.right)
    chosen_safe = annotation.a_safe if annotation.choice == "a" else annotation.b_safe
    other_safe = annotation.b_safe if annotation.choice == "a" else annotation.a_safe
    assert (chosen_safe, other_safe) == (True, False)


def test_resubmission_changes_nothing(as_bob):
    open_batch()
    annotation = leased(as_bob)
    send(as_bob, annotation, preference="left_better")
    before = Annotation.objects.values().get(pk=annotation.pk)
    assert send(as_bob, annotation, preference="left_better").status_code == 302
    other = send(as_bob, annotation, preference="right_better")
    assert other.status_code == 409
    assert "this other one was not stored" in other.content.decode()
    assert Annotation.objects.values().get(pk=annotation.pk) == before


def test_nothing_chosen_is_refused_with_a_sentence(as_bob):
    open_batch()
    answer = send(as_bob, leased(as_bob))
    assert answer.status_code == 400
    assert "Choose which response is better" in answer.content.decode()
    assert not Annotation.objects.recorded().exists()


def test_safety_without_marks_is_refused(as_bob):
    open_batch("safety")
    answer = send(as_bob, leased(as_bob, NEXT_SAFETY), preference="left_better")
    assert "Say which of the two responses are safe" in answer.content.decode()


def test_choosing_the_unsafe_response_over_the_safe_one_is_refused(as_bob):
    open_batch("safety")
    answer = send(
        as_bob, leased(as_bob, NEXT_SAFETY),
        preference="left_better", safe="right",
    )  # fmt: skip
    assert answer.status_code == 400
    assert "marked unsafe and the other one safe" in answer.content.decode()
    assert not Annotation.objects.recorded().exists()


@pytest.mark.parametrize("name", ["annotation", "record", "skip", "flag"])
def test_someone_elses_comparison_is_refused(client, bob, charlie, name):
    open_batch()
    client.force_login(bob)
    annotation = leased(client)
    client.force_login(charlie)
    address = reverse(name, args=[annotation.pk])
    answer = client.get(address) if name == "annotation" else client.post(address)
    assert answer.status_code == 403
    assert "reserved for someone else" in answer.content.decode()
    annotation.refresh_from_db()
    assert annotation.state == "leased"


def test_strangers_are_sent_to_the_sign_in(client, db):
    assert client.get(NEXT).url == f"{reverse('sign_in')}?next={NEXT}"


def test_a_form_without_token_is_refused(bob):
    from django.test import Client

    strict = Client(enforce_csrf_checks=True)
    strict.force_login(bob)
    open_batch()
    assert send(strict, leased(strict), preference="left_better").status_code == 403


def test_skip_and_flag(as_bob):
    open_batch()
    for name, state in (("skip", "skipped"), ("flag", "flagged")):
        annotation = leased(as_bob)
        as_bob.post(reverse(name, args=[annotation.pk]))
        annotation.refresh_from_db()
        assert annotation.state == state


def test_heartbeat(as_bob):
    open_batch()
    annotation = leased(as_bob)
    address = reverse("heartbeat", args=[annotation.pk])
    assert as_bob.post(address).status_code == 204
    annotation.skip()
    answer = as_bob.post(address)
    assert answer.status_code == 409
    assert "has ended" in answer.content.decode()


def test_the_heartbeat_says_when_a_closing_batch_ends(as_bob):
    batch = open_batch()
    annotation = leased(as_bob)
    batch.close()
    answer = as_bob.post(reverse("heartbeat", args=[annotation.pk]))
    assert answer.status_code == 200
    assert answer.json()["errors"] == [
        "This batch is closing: send your answer before "
        f"{annotation.lease_expires_at:%H:%M:%S} UTC, when your reservation ends."
    ]


def test_empty_states_say_why(client, bob, charlie):
    client.force_login(bob)
    assert "No helpfulness batch is open" in client.get(NEXT).content.decode()
    open_batch(comparisons=1)
    client.get(NEXT)
    client.force_login(charlie)
    assert "reserved by others" in client.get(NEXT).content.decode()
    Annotation.objects.get().record(choice="a", strength="better")
    assert "judged everything there is" in client.get(NEXT).content.decode()


def test_models_and_scores_are_never_named(as_bob):
    batch = open_batch(comparisons=0)
    release = released_chat_model("secret-model-name")
    found = comparison(batch, "A question?")
    for response in (found.response_a, found.response_b):
        response.variant, response.checkpoint = release.variant(0.875), release.checkpoint
        response.temperature = 0.875
        response.save()
    page = as_bob.get(NEXT).content.decode()
    assert "secret-model-name" not in page
    assert "0.875" not in page


def test_hostile_text_stays_text(as_bob):
    batch = open_batch(comparisons=0)
    comparison(
        batch, "<script>alert(1)</script>",
        a="[x](javascript:alert(1)) <img src=x onerror=alert(1)> ![i](https://example.com/i.png)",
        b="**bold** `code`",
    )  # fmt: skip
    page = as_bob.get(NEXT).content.decode()
    body = page.split("<main", 1)[1].split("</main>")[0]
    assert "<script" not in body
    assert "<img" not in body
    assert 'href="javascript' not in body
    assert "<strong>bold</strong>" in body


@pytest.mark.parametrize("comparisons", [3, 300])
def test_judging_costs_a_fixed_number_of_queries(as_bob, comparisons, django_assert_num_queries):
    open_batch(comparisons=comparisons)
    as_bob.get(NEXT)
    with django_assert_num_queries(QUERIES["page"]):
        as_bob.get(NEXT)
    first = Annotation.objects.get(state="leased")
    with django_assert_num_queries(QUERIES["prefetch"]):
        ahead = ask_json(as_bob, reverse("next_card", args=["helpfulness"]), shown=first.pk)
    with django_assert_num_queries(QUERIES["record"]):
        answer = ask_json(
            as_bob, reverse("record", args=[first.pk]),
            preference="left_better", shown=ahead["next"]["id"],
        )  # fmt: skip
    assert answer["saved"]["id"] == first.pk
    assert answer["next"]["id"] not in (first.pk, ahead["next"]["id"])
    assert Annotation.objects.recorded().count() == 1
