"""/rewards/…/promotion and /rewards/roll-back/…: what will change, and the change."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Checkpoint, Promotion, PromptSet, Round
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.trained import trained
from tests.annotation_app.views.conftest import text

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


@pytest.fixture
def two() -> list[Checkpoint]:
    return [trained(), trained()]


def test_it_works(as_alice, alice, two):
    page = text(as_alice.get(reverse("promotion", args=[two[0].pk])))
    assert "No round is running" in page
    assert "none" in page
    as_alice.post(reverse("promote", args=[two[0].pk]), {"seen": "0"})
    assert Checkpoint.objects.promoted("helpfulness") == two[0]
    page = text(as_alice.get(reverse("rewards")))
    assert "In force: <a" in page
    assert "alice" in page.partition("History of promotions")[2]


def test_looking_changes_nothing(as_alice, two):
    as_alice.get(reverse("promotion", args=[two[0].pk]))
    as_alice.get(reverse("rolling_back", args=["helpfulness"]))
    assert not Promotion.objects.exists()


def test_rolling_back(as_alice, two):
    for checkpoint in two:
        Promotion.promote(checkpoint)
    page = text(as_alice.get(reverse("rolling_back", args=["helpfulness"])))
    assert f"Roll back to {two[0]}" in page
    as_alice.post(reverse("roll_back", args=["helpfulness"]), {"seen": "2"})
    assert Checkpoint.objects.promoted("helpfulness") == two[0]
    assert "rolled back to" in text(as_alice.get(reverse("rewards")))


def test_there_may_be_nothing_to_roll_back_to(as_alice, two):
    Promotion.promote(two[0])
    page = text(as_alice.get(reverse("rolling_back", args=["helpfulness"])))
    assert "nothing to roll back to" in page
    answer = as_alice.post(reverse("roll_back", args=["helpfulness"]))
    assert answer.status_code == 409
    assert "No helpfulness reward model was in force before this one." in text(answer)


def test_sent_twice_it_is_one_promotion(as_alice, two):
    Promotion.promote(two[0])
    address = reverse("promote", args=[two[1].pk])
    assert as_alice.post(address, {"seen": "1"}).status_code == 302
    answer = as_alice.post(address, {"seen": "1"})
    assert answer.status_code == 409
    assert "is in force already" in text(answer)
    assert Promotion.objects.count() == 2


def test_a_running_round_is_named_and_keeps_its_own(as_alice, two):
    chat, prompts = released_chat_model("other").checkpoint, PromptSet.objects.create(name="p")
    shared = {"policy": chat, "helpfulness": two[0], "safety": two[0], "prompt_set": prompts}
    round_ = Round.objects.create(name="RLHF-V1", state="running", **shared)
    page = text(as_alice.get(reverse("promotion", args=[two[1].pk])))
    assert "RLHF-V1</a>" in page
    assert "keeps what it started with" in page
    as_alice.post(reverse("promote", args=[two[1].pk]))
    round_.refresh_from_db()
    assert round_.helpfulness == two[0]


@pytest.mark.parametrize("seen", ["-1", "x", "9" * 40, "="])
def test_a_strange_number_stands_for_none(as_alice, two, seen):
    assert as_alice.post(reverse("promote", args=[two[0].pk]), {"seen": seen}).status_code == 302


def test_what_there_is_not(as_alice, two):
    chat = Checkpoint.objects.chat().first()
    assert as_alice.get(reverse("promotion", args=[chat.pk])).status_code == 404
    assert as_alice.post(reverse("promote", args=[chat.pk])).status_code == 409
    assert as_alice.get(reverse("promotion", args=[999])).status_code == 404
    assert as_alice.get(reverse("rolling_back", args=["kindness"])).status_code == 404
    assert as_alice.post(reverse("roll_back", args=["kindness"])).status_code == 404


def test_researchers_only(as_bob, two):
    assert as_bob.get(reverse("promotion", args=[two[0].pk])).status_code == 403
    assert as_bob.post(reverse("promote", args=[two[0].pk])).status_code == 403
    assert as_bob.post(reverse("roll_back", args=["helpfulness"])).status_code == 403
    assert as_bob.get(reverse("rolling_back", args=["helpfulness"])).status_code == 403
    assert not Promotion.objects.exists()
