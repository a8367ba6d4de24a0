"""Who is signed in: one query, and every way in which a session stops counting."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import SignIn

pytestmark = pytest.mark.django_db


def is_signed_in(client) -> bool:
    return client.get(reverse("set_password")).status_code == 200


def test_it_works(as_bob, bob, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert is_signed_in(as_bob)
    assert SignIn.objects.get().person == bob


def test_the_person_has_the_types_of_the_columns(as_bob, bob):
    bob.pause("A moment.")
    bob.resume()
    read = SignIn.read(SignIn.objects.get().session_key)[1]
    for field in type(bob)._meta.concrete_fields:
        bob.refresh_from_db()
        assert getattr(read, field.attname) == getattr(bob, field.attname), field
    assert read.is_active is True


def deactivated(bob):
    bob.is_active = False
    bob.save()


def new_password(bob):
    bob.set_password("another long and rare one")
    bob.save()


def run_out(bob):
    SignIn.objects.update(expire_date=timezone.now() - timedelta(seconds=1))


def removed(bob):
    SignIn.objects.all().delete()


@pytest.mark.parametrize("end", [deactivated, new_password, run_out, removed])
def test_a_session_that_counts_no_more(as_bob, bob, end):
    assert is_signed_in(as_bob)
    end(bob)
    assert not is_signed_in(as_bob)


def test_the_data_and_the_row_must_agree_about_the_person(as_bob, charlie):
    SignIn.objects.update(person=charlie)
    answer = as_bob.get(reverse("set_password"))
    assert answer.wsgi_request.user.username == "bob"  # the signed data decide, as in Django


def test_sign_out_ends_the_session(as_bob):
    as_bob.post(reverse("sign_out"))
    assert not SignIn.objects.exists()
    assert not is_signed_in(as_bob)


def test_a_changed_password_keeps_this_browser_and_ends_the_others(client, bob, as_bob):
    other = Client()
    other.force_login(bob)
    fields = {"old_password": "bob's password"}
    fields |= dict.fromkeys(("new_password1", "new_password2"), "another long and rare one")
    as_bob.post(reverse("set_password"), fields)
    assert is_signed_in(as_bob)
    assert not is_signed_in(other)


def test_made_up_keys(client):
    client.cookies["sessionid"] = "x" * 5_000
    assert not is_signed_in(client)
