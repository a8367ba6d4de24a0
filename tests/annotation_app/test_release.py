"""Which chat models answer, how often, and at what temperature."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import IntegrityError
from django.urls import reverse

from annotation_app.models import Release, Variant
from annotation_app.models.refusals import NothingReleased, WrongState
from annotation_app.models.release import temperatures
from tests.annotation_app.rows import released_chat_model

pytestmark = pytest.mark.django_db


def weights(**named: float) -> None:
    for name, weight in named.items():
        release = released_chat_model(name)
        Release.objects.filter(pk=release.pk).update(weight=weight)


def drawn(times: int = 60) -> Counter[tuple[str, ...]]:
    pairs = (Variant.pair() for _ in range(times))
    return Counter(tuple(v.release.checkpoint.name for v in pair) for pair in pairs)


def test_it_works():
    weights(old=1, new=1)
    assert drawn().keys() == {("old", "new"), ("new", "old")}
    found = {variant.temperature for _ in range(60) for variant in Variant.pair()}
    assert found == {0.8, 0.85, 0.9, 0.95, 1.0}


def test_nothing_released():
    weights(new=0)
    with pytest.raises(NothingReleased, match="No chat model is released yet"):
        Variant.pair()


def test_one_without_weight_does_not_answer():
    weights(older=0, old=1, new=1)
    assert drawn().keys() == {("old", "new"), ("new", "old")}


def test_a_withdrawn_one_does_not_answer():
    weights(old=1, new=1)
    Release.objects.get(checkpoint__name="old").withdraw(None, "It swears.")
    assert drawn().keys() == {("new", "new")}


def test_the_heavier_one_answers_more_often_and_never_beside_itself():
    weights(a=1000, b=1, c=1)
    pairs = drawn()
    assert all(first != second for first, second in pairs)
    assert sum(count for pair, count in pairs.items() if "a" in pair) >= 58
    assert {pair.index("a") for pair in pairs if "a" in pair} == {0, 1}


def test_one_alone_answers_twice_at_two_temperatures(settings):
    weights(new=1)
    assert all(first != second for first, second in (Variant.pair() for _ in range(60)))
    settings.LOW_TEMPERATURE = settings.HIGH_TEMPERATURE = 0.7
    first, second = Variant.pair()
    assert first == second
    assert first.temperature == 0.7


@pytest.mark.parametrize(
    ("low", "high", "steps"),
    [
        (0.8, 1.0, [0.8, 0.85, 0.9, 0.95, 1.0]),
        (0.15, 0.3, [0.15, 0.2, 0.25, 0.3]),
        (0.82, 0.83, [0.82, 0.83]),
        (0.0, 0.0, [0.0]),
        (0.97, 1.12, [0.97, 1.0, 1.05, 1.1, 1.12]),
    ],
)
def test_temperatures_of_a_range(settings, low, high, steps):
    settings.LOW_TEMPERATURE, settings.HIGH_TEMPERATURE = low, high
    assert temperatures() == steps


# --- weights --------------------------------------------------------------------------------------


def test_only_the_newest_two_go_on_answering():
    weights(oldest=1, older=2, old=0.5, new=1)
    Release.rest_older()
    found = {r.checkpoint.name: r.weight for r in Release.objects.current()}
    assert found == {"new": 1, "old": 0.5, "older": 0, "oldest": 0}


def now() -> dict[str, float]:
    return {r.checkpoint.name: r.weight for r in Release.objects.current()}


def withdraw(name: str) -> None:
    Release.objects.current().get(checkpoint__name=name).withdraw(None, "It swears.")


def test_the_one_before_wakes_with_its_weight_when_a_newer_one_is_withdrawn():
    weights(oldest=2, older=0.5, old=1, new=1)
    Release.rest_older()
    Release.rest_older()  # what rests already keeps the weight to wake with
    withdraw("new")
    assert now() == {"old": 1, "older": 0.5, "oldest": 0}
    withdraw("older")
    assert now() == {"old": 1, "oldest": 2}


def test_one_that_was_withdrawn_or_that_a_person_put_to_rest_does_not_wake():
    weights(oldest=1, older=1, old=1, new=1)
    Release.rest_older()
    withdraw("older")
    Release.objects.get(checkpoint__name="oldest").weigh(0)
    withdraw("new")
    assert now() == {"old": 1, "oldest": 0}
    with pytest.raises(WrongState, match="old is the last chat model that answers"):
        withdraw("old")


def test_one_that_wakes_answers_in_place_of_the_last():
    weights(older=1, old=1, new=1)
    Release.rest_older()
    Release.objects.get(checkpoint__name="old").weigh(0)
    withdraw("new")
    assert now() == {"old": 0, "older": 1}


def test_what_has_a_weight_does_not_rest():
    weights(new=1)
    with pytest.raises(IntegrityError):
        Release.objects.update(resting_weight=1)


def test_the_last_weight_is_not_taken():
    weights(old=0, new=1)
    new = Release.objects.get(checkpoint__name="new")
    with pytest.raises(WrongState, match="new is the last chat model that answers"):
        new.weigh(0)
    Release.objects.get(checkpoint__name="old").weigh(0.5)
    new.weigh(0)
    assert [release.checkpoint.name for release in Release.objects.answering()] == ["old"]


def test_a_negative_weight_cannot_be_stored():
    with pytest.raises(IntegrityError):
        weights(new=-1)


def weigh(client, weight: str):
    release = Release.objects.order_by("pk").first()
    return client.post(reverse("weigh_release", args=[release.pk]), {"weight": weight}, follow=True)


def test_a_researcher_sets_a_weight(as_alice):
    weights(old=1, new=1)
    page = weigh(as_alice, "0.25").content.decode()
    assert "old has the weight 0.25 now." in page
    assert 'value="0.25" aria-label="Weight of old"' in page


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [("", "Give a weight"), ("-1", "greater than or equal to 0"), ("nan", "Enter a number"),
     ("inf", "Enter a number"), ("many", "Enter a number"), ("1001", "less than or equal to 1000")],
)  # fmt: skip
def test_a_wrong_weight_is_a_sentence_and_stays_in_its_field(as_alice, weight, sentence):
    weights(old=1, new=1)
    answer = weigh(as_alice, weight)
    page = answer.content.decode()
    assert answer.status_code == 400
    assert sentence in page
    assert f'value="{weight}" aria-label="Weight of old"' in page
    assert 'value="1.0" aria-label="Weight of new"' in page
    assert {release.weight for release in Release.objects.all()} == {1}


def test_the_last_weight_is_refused_on_the_page(as_alice):
    weights(only=1)
    answer = weigh(as_alice, "0")
    assert answer.status_code == 409
    assert "only is the last chat model that answers" in answer.content.decode()


def test_only_researchers_set_weights(as_bob):
    weights(old=1, new=1)
    assert weigh(as_bob, "0").status_code == 403
    assert {release.weight for release in Release.objects.all()} == {1}


def test_looking_sets_nothing(as_alice):
    weights(old=1)
    assert as_alice.get(reverse("weigh_release", args=[1])).status_code == 405
    assert as_alice.post(reverse("weigh_release", args=[999_999])).status_code == 404


@pytest.mark.parametrize("count", [1, 6])
def test_the_page_costs_a_fixed_number_of_queries(as_alice, count, django_assert_num_queries):
    weights(**{f"model{number}": 1.0 for number in range(count)})
    with django_assert_num_queries(4):
        as_alice.get(reverse("chat_models"))
