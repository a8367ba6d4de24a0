"""A new version of a qualification: what becomes of those on the way, and who is told what."""

from __future__ import annotations

import json

import pytest
from django.urls import reverse

from annotation_app import qualifying
from annotation_app.models import Attempt, Person, Qualification
from tests.annotation_app.qualifications import (
    answer_rightly,
    document,
    only_gate,
    passed,
    publish,
    quiz,
    write,
    writing,
)

pytestmark = pytest.mark.django_db
NEW, LIST = reverse("new_qualification"), reverse("qualifications")


def detail(client, qualification: Qualification) -> str:
    answer = client.get(reverse("qualification", args=[qualification.pk]))
    return " ".join(answer.content.decode().split())


@pytest.fixture
def old(alice) -> Qualification:
    """Two gates."""
    return publish(alice, quiz(), quiz(2, title="More sums"))


def replace(client) -> str:
    text = json.dumps(document(quiz(4), quiz(2, title="More sums")))
    return " ".join(client.post(NEW, {"text": text}, follow=True).content.decode().split())


def newest() -> Qualification:
    return Qualification.objects.open().get()


def test_it_works(as_alice, old, bob, charlie, rita):
    first, second = old.gates.all()
    for gate in (first, second):
        passed(gate, bob)
    passed(first, charlie)
    Attempt.begin(first, rita)
    told = (
        "whoever has the skill keeps it (1); a running or ungraded attempt may be finished, and "
        "its last gate still gives the skill (1); whoever is between gates begins anew (1)."
    )
    assert f"If it is replaced now: {told}" in detail(as_alice, old)
    page = replace(as_alice)
    assert "version 2, is open. Version 1 is closed: " + told in page
    old.refresh_from_db()
    assert not old.is_open
    assert "is open as before: it is the same document." in replace(as_alice)


def test_the_first_version_takes_the_place_of_none(as_alice):
    page = replace(as_alice)
    assert "version 1, is open." in page
    assert "is closed:" not in page


def test_someone_between_gates_begins_anew_and_is_told(client, alice, bob, old):
    first, second = old.gates.all()
    passed(first, bob)
    client.force_login(alice)
    replace(client)
    client.force_login(bob)
    page = detail(client, old)
    assert "What you passed here does not count in the new version" in page
    assert reverse("qualification", args=[newest().pk]) in page
    assert "attempt left" not in page
    page = detail(client, newest())
    assert "This version begins at its first gate: what you passed in" in page
    assert client.post(reverse("begin_gate", args=[second.pk])).status_code == 409
    assert client.post(reverse("begin_gate", args=[newest().gates.first().pk])).status_code == 302


def test_someone_on_the_last_gate_may_finish_it_and_is_told(client, alice, bob):
    old = publish(alice, writing(1))
    attempt = Attempt.begin(only_gate(old), bob)
    write(attempt, 1)
    attempt.finish()
    client.force_login(alice)
    replace(client)
    client.force_login(bob)
    assert "this is the last gate, and passing it gives you the skill" in detail(client, old)
    assert "and passing it gives you the skill" in detail(client, newest())


def test_someone_on_an_earlier_gate_may_finish_it_for_nothing_and_is_told(client, bob, alice, old):
    attempt = Attempt.begin(old.gates.first(), bob)
    client.force_login(alice)
    replace(client)
    client.force_login(bob)
    assert "may be finished, but the gates after it are closed." in detail(client, old)
    answer_rightly(attempt, 3)
    attempt.finish()
    assert not bob.skills.exists()


def test_a_holder_keeps_the_skill_and_need_not_do_it_again(client, bob, alice, old):
    for gate in old.gates.all():
        passed(gate, bob)
    client.force_login(alice)
    replace(client)
    client.force_login(bob)
    assert bob.skills.exists()
    assert "and you keep the skill <b>English</b>" in detail(client, old)
    page = detail(client, newest())
    assert "You have its skill, <b>English</b>, and need not do it again" in page
    assert "does not count" not in page
    assert "If it is replaced" not in page


def test_closed_without_another(client, bob, old):
    passed(old.gates.first(), bob)
    old.close()
    client.force_login(bob)
    assert "There is no open version now." in detail(client, old)


def test_nobody_is_counted_twice_and_nobody_who_has_left(alice, bob, charlie, old):
    first, second = old.gates.all()
    passed(first, bob)
    Attempt.begin(second, bob)
    passed(first, charlie)
    assert qualifying.left_in(old)[:] == (0, 1, 1)
    Person.objects.filter(pk=charlie.pk).update(is_active=False)
    assert qualifying.left_in(old)[:] == (0, 1, 0)
