"""/releases, and the pages to release, to roll back and to have people compare."""

from __future__ import annotations

from html import unescape

import pytest
from django.urls import reverse

from annotation_app import snapshots
from annotation_app.lifecycle import releases
from annotation_app.models import Annotation, Batch, Checkpoint, Comparison, Release, Round, Run
from rlhf_loop.prompts import PromptSplit
from tests.annotation_app.ended import (
    FALLEN,
    WHY,
    ended,
    figures,
    filling,
    prompt,
    prompt_set,
    sampled,
)
from tests.annotation_app.imports.files import HH_RLHF, import_file
from tests.annotation_app.rows import released_chat_model, turn_batches
from tests.annotation_app.views.axe import PHONE, fits, violations

pytestmark = pytest.mark.django_db
BAD = "It refuses every question about kettles."


@pytest.fixture(autouse=True)
def plain_settings(settings, storage_root):
    settings.RUN_SETTINGS = None


def text(answer) -> str:
    return unescape(answer.content.decode())


def get(client, name, *args) -> str:
    return text(client.get(reverse(name, args=args)))


def post(client, name, *args, **sent):
    return client.post(reverse(name, args=args), sent, follow=True)


def again(row):
    return type(row).objects.get(pk=row.pk)


# --- releasing ------------------------------------------------------------------------------------


def test_it_works(as_alice, alice):
    """One click where the gate passes."""
    round_ = ended()
    assert "Release</button>" in get(as_alice, "round", round_.pk)
    page = text(post(as_alice, "release_round", round_.pk))
    assert "RLHF-V1 is released; the next batches are being filled from it." in page
    assert "There is no" not in page
    assert again(round_).state == "released"
    assert "alice" in get(as_alice, "releases")


def test_a_criterion_without_prompts_is_named(as_alice):
    """Nothing of it is being filled, before or after a roll-back."""
    texts = [prompt(f"How long, {number}?", PromptSplit.TRAIN) for number in range(3)]
    snapshots.write_prompt_set("Only helpfulness", texts)
    round_ = ended()
    missing = "There is no safety batch among them: no prompts of it."
    assert missing in text(post(as_alice, "release_round", round_.pk))
    release = Release.objects.get(round=round_)
    assert missing in text(post(as_alice, "roll_back_release", release.pk, reason=BAD))


def test_a_held_round_is_released_with_a_reason(as_alice):
    round_ = ended("held", FALLEN)
    page = get(as_alice, "round", round_.pk)
    assert "Release</button>" not in page
    assert "The gate holds it back." in page
    assert "Release all the same" in page
    page = get(as_alice, "releasing", round_.pk)
    assert "The combined score does not rise: 2.000 → 1.033" in page
    assert "Why it is released all the same" in page
    post(as_alice, "release_round", round_.pk, reason=f"  {WHY}  ")
    assert Release.objects.get(round=round_).reason == WHY
    assert WHY in get(as_alice, "releases")
    assert WHY in get(as_alice, "round", round_.pk)


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [("", "Say why it is released although something speaks against it."),
     (" \n ", "Say why it is released although"),
     ("x" * 2_001, "The reason has 2001 characters, allowed are at most 2000.")],
)  # fmt: skip
def test_without_a_reason_it_stays_held(as_alice, reason, sentence):
    round_ = ended("held", FALLEN)
    answer = post(as_alice, "release_round", round_.pk, reason=reason)
    assert answer.status_code == 400
    assert sentence in text(answer)
    assert reason in text(answer)
    assert again(round_).state == "held"
    assert not Batch.objects.exists()


def test_the_reason_is_kept_where_someone_was_first(as_alice):
    round_ = ended("released")
    answer = post(as_alice, "release_round", round_.pk, reason=WHY)
    assert answer.status_code == 409
    assert "RLHF-V1 is released; only an evaluated round is released." in text(answer)


def test_a_gate_that_closed_since_the_page_was_shown_asks_for_a_reason(as_alice):
    round_ = ended()
    round_.judge_again(figures(*FALLEN))
    answer = post(as_alice, "release_round", round_.pk)
    assert answer.status_code == 400
    assert "Say why it is released although" in text(answer)


def test_a_person_holds_it_back(as_alice, alice):
    round_ = ended()
    post(as_alice, "hold_round", round_.pk)
    assert (again(round_).state, again(round_).held_by) == ("held", alice)
    assert "alice holds it back." in get(as_alice, "round", round_.pk)


def test_every_figure_stands_beside_its_threshold(as_alice):
    config = {"evaluate": {"gate": {"refusal_rise": 0.07, "kl_most": 5.0}}}
    page = get(as_alice, "round", ended(config=config).pk)
    table = page.partition("Every figure beside what is allowed")[2]
    assert "2.000 → 3.033" in table
    assert "a rise by 7 points" in table
    assert "5 nats" in table
    assert "not measured" in table


def test_hostile_words_are_shown_as_words(as_alice):
    post(as_alice, "release_round", ended("held", FALLEN).pk, reason="<script>alert(1)</script>")
    page = as_alice.get(reverse("releases")).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


# --- rolling back ---------------------------------------------------------------------------------


def test_rolling_back(as_alice, alice):
    release = releases.release_round(ended(), alice)
    assert "Roll back</a>" in get(as_alice, "round", release.round_id)
    page = get(as_alice, "rolling_back_release", release.pk)
    assert "Then answering: starter (weight 1), at two temperatures." in page
    page = text(post(as_alice, "roll_back_release", release.pk, reason=BAD))
    assert "RLHF-V1 is rolled back; the next batches are filled without it." in page
    assert BAD in page
    page = get(as_alice, "round", release.round_id)
    assert "Release again" in page
    assert BAD in page
    assert BAD in get(as_alice, "releasing", release.round_id)


def test_rolling_back_says_which_one_wakes(as_alice):
    newest = [releases.release_round(ended(), None) for _ in range(2)][-1]
    page = get(as_alice, "rolling_back_release", newest.pk)
    assert "answering: RLHF-V1 (weight 1), starter (weight 1; it rests now)." in page


def test_rolling_back_says_what_open_batches_still_hold(as_alice, bob):
    release = releases.release_round(ended(), None)
    draft = Batch.objects.get(criterion="helpfulness")
    page = get(as_alice, "rolling_back_release", release.pk)
    assert "of the open batch" not in page
    sampled(filling(draft))
    again(draft).open()
    Annotation.objects.lease_next(bob, draft).record(choice="a", strength="better")
    left = Comparison.objects.filter(batch=draft, open_slots__gt=0).count()
    assert 1 < left < Comparison.objects.filter(batch=draft).count()
    page = get(as_alice, "rolling_back_release", release.pk)
    link = f'<a href="{reverse("batch", args=[draft.pk])}">{draft}</a>'
    assert f"{left} comparisons of the open batch {link} still hold its answers" in page


def test_rolling_back_takes_a_reason(as_alice):
    release = releases.release_round(ended(), None)
    answer = post(as_alice, "roll_back_release", release.pk, reason=" ")
    assert answer.status_code == 400
    assert "Say why it is rolled back: others will read it here." in text(answer)
    assert again(release).withdrawn_at is None


def test_the_last_one_is_refused_in_words(as_alice):
    only = released_chat_model()
    page = get(as_alice, "rolling_back_release", only.pk)
    assert "starter is the last chat model that answers, so it cannot be rolled back" in page
    assert "<textarea" not in page
    answer = post(as_alice, "roll_back_release", only.pk, reason=BAD)
    assert answer.status_code == 409
    assert "give another one a weight first" in text(answer)
    assert "Roll back<span" not in get(as_alice, "releases")


def test_sent_twice_it_is_one_roll_back(as_alice):
    release = releases.release_round(ended(), None)
    post(as_alice, "roll_back_release", release.pk, reason=BAD)
    answer = post(as_alice, "roll_back_release", release.pk, reason="Again.")
    assert answer.status_code == 409
    assert "was rolled back already" in text(answer)
    assert again(release).withdrawn_reason == BAD
    assert Run.objects.filter(state="queued").count() == 2  # one filling for each criterion


def test_looking_changes_nothing(as_alice):
    round_ = ended()
    release = Release.objects.get()
    for name, pk in (("releasing", round_.pk), ("rolling_back_release", release.pk),
                     ("comparing", round_.pk)):  # fmt: skip
        assert as_alice.get(reverse(name, args=[pk])).status_code == 200
    for name, pk in (("release_round", round_.pk), ("roll_back_release", release.pk),
                     ("compare_round", round_.pk), ("hold_round", round_.pk)):  # fmt: skip
        assert as_alice.get(reverse(name, args=[pk])).status_code == 405
    assert as_alice.get(reverse("train_independent")).status_code == 405
    assert again(round_).state == "evaluated"
    assert not Run.objects.exists()


@pytest.mark.parametrize("name", ["releasing", "rolling_back_release", "comparing"])
def test_what_there_is_not(as_alice, name):
    assert as_alice.get(reverse(name, args=[999_999])).status_code == 404
    assert as_alice.get(reverse(name, args=[10**25])).status_code == 404


def test_researchers_only(as_rita):
    round_, release = ended("held", FALLEN), Release.objects.get()
    for name, args in (("releases", []), ("releasing", [round_.pk]), ("comparing", [round_.pk]),
                       ("rolling_back_release", [release.pk])):  # fmt: skip
        assert as_rita.get(reverse(name, args=args)).status_code == 403
    for name, args in (("release_round", [round_.pk]), ("roll_back_release", [release.pk]),
                       ("compare_round", [round_.pk]), ("train_independent", [])):  # fmt: skip
        sent = {"reason": WHY, "criterion": "safety", "count": 3, "overlap": 1}
        assert as_rita.post(reverse(name, args=args), sent).status_code == 403
    assert again(round_).state == "held"
    assert not Run.objects.exists()


@pytest.mark.parametrize("count", [1, 5])
def test_the_history_costs_a_fixed_number_of_queries(as_alice, count, django_assert_num_queries):
    for _ in range(count):
        releases.release_round(ended(), None)
    with django_assert_num_queries(6):
        as_alice.get(reverse("releases"))


@pytest.mark.parametrize("count", [3, 12])
def test_a_rounds_page_costs_a_fixed_number_of_queries(
    as_alice, bob, count, django_assert_num_queries
):
    round_ = ended()
    batch = releases.compare_with_people(round_, "helpfulness", count, 1)
    sampled(filling(batch))
    turn_batches()
    while (annotation := Annotation.objects.lease_next(bob, Batch.objects.get())) is not None:
        annotation.record(choice="a", strength="better")
    turn_batches()
    releases.release_round(again(round_), None, WHY)
    with django_assert_num_queries(6):
        as_alice.get(reverse("round", args=[round_.pk]))


# --- people compare -------------------------------------------------------------------------------


def test_people_compare(as_alice, alice, bob):
    round_ = ended()
    page = get(as_alice, "comparing", round_.pk)
    assert "200 comparisons: ± 7 points" in page
    sent = {"criterion": "helpfulness", "count": "6", "overlap": "1"}
    page = text(post(as_alice, "compare_round", round_.pk, **sent))
    assert "Week 1, helpfulness is being filled; it opens by itself." in page
    assert "both models are answering its prompts" in page
    batch = Batch.objects.get()
    assert filling(batch).asked_by == alice
    sampled(filling(batch))
    turn_batches()
    assert "0 of 6 judged" in get(as_alice, "round", round_.pk)
    assert "Win rate, ties half" not in get(as_alice, "round", round_.pk)
    while (annotation := Annotation.objects.lease_next(bob, batch)) is not None:
        side = "a" if annotation.comparison.response_a.checkpoint_id == round_.result_id else "b"
        annotation.record(choice=side, strength="better")
    turn_batches()
    page = get(as_alice, "round", round_.pk)
    assert "100.0 % (61.0 % to 100.0 %)" in page
    assert "66.7 % on held-out prompts" in page
    apart = page.partition("held-out prompts only</small></th>")[2]
    assert "100.0 % (51.0 % to 100.0 %)" in apart
    assert "models side by side" in text(as_alice.get(reverse("batches"))).replace(
        f'<a href="{reverse("round", args=[round_.pk])}">side by side</a>', "side by side"
    )
    assert "no model learns from it" in get(as_alice, "batch", batch.pk)


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"count": "6"}, "Say what people shall judge: helpfulness or safety."),
        ({"criterion": "kindness"}, "“kindness” is no criterion, allowed are "
         "helpfulness and safety."),
        ({"criterion": "safety", "count": ""}, "Comparisons is missing, allowed is a whole number"),
        ({"criterion": "safety", "count": "0"}, "Comparisons is '0', allowed is a whole number "
         "from 1 to 10000."),
        ({"criterion": "safety", "count": "9" * 50}, f"Comparisons is '{'9' * 40}', allowed is"),
        ({"criterion": "safety", "count": "many"}, "Comparisons is 'many', allowed is a whole"),
        ({"criterion": "safety", "count": "6", "overlap": "10"}, "Annotators for each is '10', "
         "allowed is a whole number from 1 to 9."),
    ],
)  # fmt: skip
def test_a_wrong_order_is_a_sentence(as_alice, sent, sentence):
    round_ = ended()
    answer = post(as_alice, "compare_round", round_.pk, **{"overlap": "1", **sent})
    assert answer.status_code == 400
    assert sentence in text(answer)
    assert not Batch.objects.exists()


def test_too_many_for_the_fresh_prompts_are_refused_and_the_number_kept(as_alice):
    sent = {"criterion": "safety", "count": "17", "overlap": "1"}
    answer = post(as_alice, "compare_round", ended().pk, **sent)
    assert answer.status_code == 409
    assert "Only 16 safety prompts of Help desk were never asked" in text(answer)
    assert 'value="17"' in text(answer)
    assert not Batch.objects.exists()


def test_ordered_twice_it_is_one_batch(as_alice):
    round_ = ended()
    sent = {"criterion": "safety", "count": "6", "overlap": "1"}
    post(as_alice, "compare_round", round_.pk, **sent)
    answer = post(as_alice, "compare_round", round_.pk, **sent)
    assert answer.status_code == 409
    assert "People compare RLHF-V1 for safety already." in text(answer)
    assert Batch.objects.count() == Run.objects.count() == 1


def test_a_round_without_a_result_has_nothing_to_compare(as_alice):
    round_ = ended("failed", result=None)
    page = get(as_alice, "comparing", round_.pk)
    assert "people compare the models of an evaluated round" in page
    assert "<form" not in page.partition("<main")[2]


# --- what the next round is measured by -----------------------------------------------------------


def test_what_the_next_round_is_measured_by(as_alice, settings, tmp_path):
    page = get(as_alice, "releases")
    for words in (
        "No chat model was released yet.",
        "a prompt set; there is none yet",
        "None yet: train one",
        "no JUDGE_URL is set",
        "no TASKS_FOLDER is set",
    ):
        assert words in page.replace("<code>", "").replace("</code>", "")
    prompt_set()
    released_chat_model()
    settings.JUDGE_URL, settings.JUDGE_MODEL = "https://judge.example/v1", "wise"
    settings.TASKS_FOLDER = tmp_path
    (tmp_path / "reading.jsonl").write_text("")
    page = get(as_alice, "releases")
    assert "Help desk (6)" in page
    assert "wise, each pair in both orders" in page
    assert "reading.jsonl." in page


def test_an_independent_reward_model_by_a_button(as_alice, alice, settings):
    released_chat_model()
    import_file(HH_RLHF, "hh-rlhf", "helpfulness", "Anthropic")
    post(as_alice, "train_independent", criterion="helpfulness")
    run = Run.objects.get()
    assert (run.asked_by, run.input("snapshot").counts["collected"]) == (alice, 0)
    assert f"{run}</a> is at work." in get(as_alice, "releases")
    Run.objects.update(state="succeeded")
    Checkpoint.objects.create(kind="helpfulness_reward", name="From outside", line="tiny",
                              storage_key="outside", run=run)  # fmt: skip
    assert "From outside</a>, which learnt from imported comparisons only" in get(
        as_alice, "releases"
    )


@pytest.mark.parametrize(
    ("criterion", "status", "sentence"),
    [("safety", 409, "There is no imported safety comparison"), ("kindness", 400, "Choose helpf")],
)
def test_an_independent_one_that_cannot_be_trained(as_alice, criterion, status, sentence):
    released_chat_model()
    answer = post(as_alice, "train_independent", criterion=criterion)
    assert answer.status_code == status
    assert sentence in text(answer)
    assert not Run.objects.exists()


# --- how it looks ---------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_and_by_key(page, live_server, client, alice, scheme):
    held = ended("held", FALLEN)
    release = releases.release_round(ended(), alice)
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(PHONE)
    for name, args in (("round", [held.pk]), ("releasing", [held.pk]), ("comparing", [held.pk]),
                       ("rolling_back_release", [release.pk]), ("releases", [])):  # fmt: skip
        page.goto(live_server.url + reverse(name, args=args))
        assert (name, violations(page), fits(page)) == (name, [], True)
    page.goto(live_server.url + reverse("releasing", args=[held.pk]))
    page.get_by_label("Why it is released all the same").fill(WHY)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/rounds/*")
    assert Round.objects.get(pk=held.pk).state == "released"
    page.goto(live_server.url + reverse("rolling_back_release", args=[release.pk]))
    page.get_by_role("button", name="Roll back").click()
    assert page.locator("textarea:invalid").count() == 1
    page.get_by_label("Why it is rolled back").fill(BAD)
    page.get_by_role("button", name="Roll back").click()
    page.wait_for_url("**/releases")
    assert BAD in page.locator("main").inner_text()
    assert (violations(page), fits(page)) == ([], True)
