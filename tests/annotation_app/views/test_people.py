"""/people, /preferences and /organisation: roles, skills, and one's own settings."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Organisation, Person, Skill

pytestmark = pytest.mark.django_db
CHECKS = {
    "reference_rate": "0.05", "re_serve_rate": "0.02", "re_serve_after_days": "2",
    "fewest_probes": "12", "least_skill": "0.7", "least_self_agreement": "0.65",
    "most_on_one_side": "0.85",
}  # fmt: skip


@pytest.fixture
def as_dora(client, dora):
    client.force_login(dora)
    return client


def test_skills_and_roles(as_dora, bob):
    as_dora.post(reverse("add_skill"), {"name": "German"})
    german = Skill.objects.get(name="German")
    as_dora.post(reverse("person", args=[bob.pk]), {"role": "researcher", "skills": [german.pk]})
    bob.refresh_from_db()
    assert (bob.role, list(bob.skills.all())) == ("researcher", [german])


def test_a_skill_is_added_once(as_dora):
    as_dora.post(reverse("add_skill"), {"name": "German"})
    answer = as_dora.post(reverse("add_skill"), {"name": "German"})
    assert answer.status_code == 400
    assert "already exists" in answer.content.decode()


def test_the_last_administrator_keeps_the_role(as_dora, dora):
    answer = as_dora.post(reverse("person", args=[dora.pk]), {"role": "annotator"})
    assert answer.status_code == 409
    assert Person.objects.get(pk=dora.pk).is_administrator


def test_ones_own_keys_and_safety_work(as_bob, bob):
    as_bob.post(reverse("preferences"), {"key_layout": "home_row"})
    bob.refresh_from_db()
    assert (bob.key_layout, bob.does_safety) == ("home_row", False)


def test_safety_work_that_may_not_be_declined(as_bob, bob):
    Organisation.objects.create(pk=1, safety_may_be_declined=False)
    as_bob.post(reverse("preferences"), {"key_layout": "home_row"})
    bob.refresh_from_db()
    assert bob.does_safety


def test_free_text_is_no_key_layout(as_bob, bob):
    as_bob.post(reverse("preferences"), {"key_layout": "qwertz"})
    bob.refresh_from_db()
    assert bob.key_layout == "standard"


def test_the_organisation_decides(as_dora):
    fields = {**CHECKS, "safety_warning": "Careful.", "safety_daily_cap": "50"}
    as_dora.post(reverse("organisation"), fields)
    found = Organisation.current()
    assert (found.safety_warning, found.safety_daily_cap) == ("Careful.", 50)
    assert not found.safety_is_veiled
    answer = as_dora.post(reverse("organisation"), fields | {"safety_daily_cap": "-1"})
    assert answer.status_code == 400
    assert Organisation.current().safety_daily_cap == 50


@pytest.mark.parametrize("name", ["people", "organisation"])
def test_only_administrators(as_alice, name):
    assert as_alice.get(reverse(name)).status_code == 403
