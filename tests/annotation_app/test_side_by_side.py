"""People compare a round's new chat model with the previous one: asked, judged, kept apart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from django.db import IntegrityError, connection, transaction
from django.urls import reverse

from annotation_app import exchange, exports, side_by_side, snapshots
from annotation_app.lifecycle import releases, training
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Person,
    PromptSet,
    Remark,
    Response,
    Round,
    Run,
)
from annotation_app.models.refusals import CannotStart, WrongState
from rlhf_loop.prompts import PromptSplit
from tests.annotation_app.ended import FALLEN, asked_in, ended, filling, prompt_set, sampled
from tests.annotation_app.rows import comparison, open_batch, turn_batches

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def plain_settings(settings, storage_root):
    settings.RUN_SETTINGS = None


def ordered(
    round_: Round | None = None,
    count: int = 8,
    overlap: int = 1,
    text=None,
    criterion="helpfulness",
) -> Batch:
    """A batch that compares a round's models, filled and open."""
    batch = releases.compare_with_people(round_ or ended(), criterion, count, overlap)
    sampled(filling(batch), text)
    turn_batches()
    batch.refresh_from_db()
    assert batch.state == "open"
    return batch


def prefers(batch: Batch, name: str, new: Callable[[int], bool]) -> None:
    """This person judges the whole batch; whether the new model's answer is better, by number."""
    who, _ = Person.objects.get_or_create(username=name, does_safety=True)
    number = 0
    while (annotation := Annotation.objects.lease_next(who, batch)) is not None:
        result = batch.round.result_id
        side = "a" if annotation.comparison.response_a.checkpoint_id == result else "b"
        wanted = side if new(number) else ("b" if side == "a" else "a")
        annotation.record(choice=wanted, strength="better")
        number += 1


def people(batch: Batch) -> dict:
    turn_batches()
    batch.refresh_from_db()
    assert batch.state == "closed"
    return Round.objects.get(pk=batch.round_id).evaluation["people"]


@pytest.mark.django_db(transaction=True)
def test_orders_at_once_ask_different_prompts(monkeypatch):
    """The reading of what was asked is made slow, so that all orders are in it together."""
    asked_roots = side_by_side._asked_roots

    def slowly(roots):
        found = asked_roots(roots)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(side_by_side, "_asked_roots", slowly)
    rounds = [ended() for _ in range(3)]

    def order(round_: Round) -> Batch:
        try:
            return releases.compare_with_people(round_, "helpfulness", 5, 1)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(rounds)) as pool:
        batches = list(pool.map(order, rounds))
    roots = [prompt.root for batch in batches for prompt in asked_in(filling(batch))]
    assert len(set(roots)) == len(roots) == 15


# --- what is asked --------------------------------------------------------------------------------


def test_it_works():
    round_ = ended()
    batch = ordered(round_)
    run = filling(batch)
    assert (batch.kind, batch.round, batch.quota) == ("evaluation", round_, 8)
    assert (run.input("first"), run.input("second")) == (round_.policy, round_.result)
    assert run.round is None
    for posed in Comparison.objects.filter(batch=batch):
        found = {posed.response(side).checkpoint for side in "ab"}
        assert found == {round_.policy, round_.result}
    prefers(batch, "bob", lambda number: number < 6)
    found = people(batch)["helpfulness"]
    assert [found[name] for name in ("count", "wins", "ties", "losses")] == [8, 6, 0, 2]
    assert found["win_rate"] == 0.75
    assert found["low"] < 0.75 < found["high"]
    assert found["shares"]["win"]["share"] == 0.75
    assert Round.objects.get().state == "evaluated"


def test_which_model_stands_as_a_is_drawn(monkeypatch):
    numbers = Random(0)
    monkeypatch.setattr(exchange.random, "SystemRandom", lambda: numbers)
    round_ = ended()
    batch = ordered(round_, 12)
    firsts = Comparison.objects.filter(batch=batch).values_list("response_a__checkpoint", flat=True)
    assert set(firsts) == {round_.policy_id, round_.result_id}


def test_only_fresh_prompts_and_never_test_ones():
    """Those that no model trains on come first."""
    round_ = ended()
    asked_before = snapshots.prompts_of(round_.prompt_set)[0]
    comparison(open_batch(comparisons=0), asked_before.messages[0].content)
    batch = releases.compare_with_people(round_, "helpfulness", 15, 1)
    asked = asked_in(filling(batch))
    assert len(asked) == 15
    assert asked_before.id not in {prompt.id for prompt in asked}
    splits = [prompt.split for prompt in asked]
    assert splits == [PromptSplit.VALIDATION] * 4 + [PromptSplit.TRAIN] * 11
    assert not any(prompt.is_safety for prompt in asked)


def test_too_few_fresh_prompts_are_a_sentence_and_leave_nothing():
    with pytest.raises(CannotStart, match="Only 16 helpfulness prompts of Help desk were never"):
        releases.compare_with_people(ended(), "helpfulness", 17, 1)
    assert not Batch.objects.exists()
    assert PromptSet.objects.count() == 1


def test_once_for_each_criterion():
    round_ = ended()
    releases.compare_with_people(round_, "helpfulness", 3, 1)
    releases.compare_with_people(round_, "safety", 3, 1)
    with pytest.raises(WrongState, match="People compare RLHF-V1 for safety already"):
        releases.compare_with_people(round_, "safety", 3, 1)
    assert Batch.objects.side_by_side().count() == 2


@pytest.mark.parametrize("state", ["running", "failed", "rolled_back"])
def test_not_before_there_is_something_to_compare(state):
    with pytest.raises(WrongState, match="people compare the models of an evaluated round"):
        releases.compare_with_people(ended(state), "helpfulness", 3, 1)


def test_the_database_keeps_the_two_kinds_apart():
    batch = open_batch()
    for wrong in ({"kind": "evaluation"}, {"round": ended()}, {"kind": "other"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Batch.objects.filter(pk=batch.pk).update(**wrong)


# --- annotators -----------------------------------------------------------------------------------


def shown(client, criterion: str = "helpfulness") -> Annotation | None:
    page = client.get(reverse("annotate_next", args=[criterion]))
    card = page.context.get("card")
    return Annotation.objects.get(pk=card.question.annotation) if card else None


def test_it_is_judged_first_and_then_the_week_goes_on(as_bob, bob):
    week = open_batch(comparisons=2)
    batch = ordered(count=2)
    seen = []
    while (annotation := shown(as_bob)) is not None:
        seen.append(annotation.batch)
        annotation.record(choice="a", strength="better")
    assert seen == [batch, batch, week, week]
    assert "You have judged everything" in as_bob.get(
        reverse("annotate_next", args=["helpfulness"])
    ).content.decode()  # fmt: skip


def test_it_is_judged_where_no_other_batch_is_open(as_bob):
    batch = ordered(count=2)
    page = as_bob.get(reverse("annotate")).content.decode()
    assert "0 of 2 judged, 0 by you" in page
    assert "Begin a dialogue" not in page
    assert shown(as_bob).batch == batch


def test_annotators_are_not_told(as_bob, bob):
    """One card for both, and a name like any other's."""
    open_batch(comparisons=2)
    batch = ordered(count=3)
    page = as_bob.get(reverse("annotate")).content.decode()
    assert "0 of 5 judged, 0 by you" in page
    assert page.count("Compare responses") == 1
    judging = as_bob.get(reverse("annotate_next", args=["helpfulness"])).content.decode()
    for word in ("RLHF", "evaluation", "side by side", "starter", "previous"):
        assert word not in page + judging
    assert batch.name == "Week 2, helpfulness"
    assert Batch.draft_next("helpfulness").name == "Week 3, helpfulness"


def test_a_waiting_turn_of_a_dialogue_still_comes_first(as_bob, bob):
    week = open_batch(comparisons=0)
    turn = comparison(week, "My own question?")
    turn.prompt.dialogue.annotator = bob
    turn.prompt.dialogue.save()
    waiting = Annotation.objects.lease(turn, bob)
    ordered(count=2)
    found = as_bob.get(reverse("annotate_next", args=["helpfulness"]))
    assert found.url == reverse("annotation", args=[waiting.pk])


def test_the_answer_to_the_last_one_brings_the_next_batchs_first(as_bob, bob):
    week = open_batch(comparisons=1)
    ordered(count=1)
    first = shown(as_bob)
    headers = {"accept": "application/json"}
    sent = {"preference": "left_better", "shown": "0"}
    said = as_bob.post(reverse("record", args=[first.pk]), sent, headers=headers).json()
    following = Annotation.objects.get(pk=said["next"]["id"])
    assert following.batch == week
    last = as_bob.post(reverse("record", args=[following.pk]), sent, headers=headers).json()
    assert last["next"] is None
    assert "You have judged everything" in last["why"]


def test_dialogues_go_into_the_week(as_bob):
    ordered(count=1)
    page = as_bob.get(reverse("start_dialogue", args=["helpfulness"])).content.decode()
    assert "No helpfulness batch is open now" in page


def test_what_is_ordered_is_asked_once_while_models_still_answer_it():
    first = releases.compare_with_people(ended(), "helpfulness", 10, 1)
    ordered_now = {prompt.root for prompt in asked_in(filling(first))}
    prompts = Round.objects.get().prompt_set
    fresh = {prompt.root for prompt in side_by_side.fresh_prompts(prompts, "helpfulness")}
    assert (len(ordered_now), len(fresh), ordered_now & fresh) == (10, 6, set())
    with pytest.raises(CannotStart, match="Only 6 helpfulness prompts of Help desk"):
        releases.compare_with_people(ended(), "helpfulness", 7, 1)
    filling(first).cancel()
    assert len(side_by_side.fresh_prompts(prompts, "helpfulness")) == 16


# --- what they said -------------------------------------------------------------------------------


def test_several_are_joined_by_majority():
    batch = ordered(count=4, overlap=3)
    for name, says in (("bob", True), ("charlie", True), ("eve", False)):
        prefers(batch, name, lambda number, says=says: says)
    found = people(batch)["helpfulness"]
    assert (found["count"], found["verdicts"]) == (4, 12)
    assert (found["wins"], found["win_rate"], found["high"]) == (4, 1.0, 1.0)
    assert found["low"] < 0.6  # four are few, however they agree


def test_an_even_split_is_a_tie():
    batch = ordered(count=3, overlap=2)
    prefers(batch, "bob", lambda number: True)
    prefers(batch, "charlie", lambda number: False)
    found = people(batch)["helpfulness"]
    assert (found["wins"], found["ties"], found["losses"], found["win_rate"]) == (0, 3, 0, 0.5)


def test_equal_answers_tie_and_empty_ones_lose_unasked():
    texts = {0: ("Same.", "Same."), 1: ("", "Words."), 2: ("Words.", "")}
    numbers: dict[str, int] = {}

    def text(prompt_id: str, index: int) -> str:
        number = numbers.setdefault(prompt_id, len(numbers))
        return texts.get(number, ("Old.", "New."))[index]

    batch = ordered(count=5, text=text)
    assert batch.quota == 2
    prefers(batch, "bob", lambda number: False)
    found = people(batch)["helpfulness"]
    assert [found[name] for name in ("wins", "ties", "losses", "unasked")] == [1, 1, 3, 3]


def test_where_all_answers_are_equal_nobody_is_asked():
    round_ = ended()
    batch = releases.compare_with_people(round_, "helpfulness", 4, 1)
    sampled(filling(batch), lambda prompt_id, index: "Same.")
    for _ in range(2):
        turn_batches()
    assert people(batch)["helpfulness"]["ties"] == 4


def test_what_nobody_judged_does_not_count_and_is_told(bob):
    batch = ordered(count=4)
    Annotation.objects.lease_next(bob, batch).record(choice="a", strength="better")
    training.close_batch(batch)
    found = people(batch)["helpfulness"]
    assert (found["count"], found["unjudged"]) == (1, 3)


def test_excluded_answers_and_probes_do_not_count(bob):
    batch = ordered(count=4)
    first = Annotation.objects.lease_next(bob, batch)
    first.record(choice="a", strength="better")
    first.exclude("clicked at random")
    training.close_batch(batch)
    assert people(batch) == {}


def test_prompts_that_no_model_trains_on_stand_apart(bob):
    """Four are held out, and the new model wins one of them; it wins both that it trained on."""
    batch = ordered(count=6)
    wins = 1
    while (annotation := Annotation.objects.lease_next(bob, batch)) is not None:
        posed = annotation.comparison
        is_held_out = posed.prompt.dialogue.root.split == "holdout"
        new = "a" if posed.response_a.checkpoint_id == batch.round.result_id else "b"
        annotation.record(
            choice=new if not is_held_out or wins else "ab".replace(new, ""), strength="better"
        )
        wins -= is_held_out and wins
    found = people(batch)["helpfulness"]
    assert (found["count"], found["wins"], found["held_out_share"]) == (6, 3, 4 / 6)
    apart = found["held_out"]
    assert [apart[name] for name in ("count", "wins", "ties", "losses")] == [4, 1, 0, 3]
    assert (apart["win_rate"], apart["shares"]["win"]["share"]) == (0.25, 0.25)
    assert apart["low"] < 0.25 < apart["high"] < found["high"]


def test_nothing_stands_apart_where_all_prompts_are_held_out():
    batch = ordered(count=4)
    prefers(batch, "bob", lambda number: True)
    found = people(batch)["helpfulness"]
    assert (found["held_out_share"], found["held_out"]) == (1.0, None)


def test_a_fall_beyond_chance_holds_the_round_back():
    round_ = ended()
    batch = ordered(round_, count=12)
    prefers(batch, "bob", lambda number: False)
    people(batch)
    round_.refresh_from_db()
    assert (round_.state, round_.held_by) == ("held", None)
    (reason,) = round_.evaluation["gate"]["reasons"]
    assert "People prefer the old answers for helpfulness: the new ones win 0.0%" in reason


def test_a_win_opens_no_gate_that_something_else_holds():
    round_ = ended("held", FALLEN)
    batch = ordered(round_, count=12)
    prefers(batch, "bob", lambda number: True)
    people(batch)
    round_.refresh_from_db()
    assert round_.state == "held"
    assert "The combined score does not rise" in round_.evaluation["gate"]["reasons"][0]


def test_where_people_must_be_asked_their_answer_opens_the_gate():
    config = {"evaluate": {"gate": {"must_measure": ["people"]}}}
    round_ = ended("held", config=config)
    batch = ordered(round_, count=6)
    prefers(batch, "bob", lambda number: number % 2 == 0)
    people(batch)
    round_.refresh_from_db()
    assert (round_.state, round_.evaluation["gate"]["reasons"]) == ("evaluated", [])


def test_after_the_release_it_is_told_and_changes_nothing():
    round_ = ended("released")
    batch = ordered(round_, count=12)
    prefers(batch, "bob", lambda number: False)
    people(batch)
    round_.refresh_from_db()
    assert round_.state == "released"
    assert not round_.evaluation["gate"]["passes"]


def test_both_criteria_stand_side_by_side():
    round_ = ended()
    prefers(ordered(round_, 6), "bob", lambda number: True)
    batch = ordered(round_, 6, criterion="safety")
    turn_batches()
    prefers(batch, "bob", lambda number: False)
    assert {c: it["wins"] for c, it in people(batch).items()} == {"helpfulness": 6, "safety": 0}


# --- no model learns from it ----------------------------------------------------------------------


def test_no_snapshot_holds_it(bob, settings):
    settings.HOLDOUT_SHARE = 0.0
    week = open_batch(comparisons=1)
    Annotation.objects.lease_next(bob, week).record(choice="a", strength="better")
    batch = ordered(count=4)
    prefers(batch, "bob", lambda number: True)
    snapshot = snapshots.write_snapshot("helpfulness")
    assert set(snapshot.annotations.all()) == set(Annotation.objects.filter(batch=week))
    people(batch)
    snapshot = snapshots.write_snapshot("helpfulness")
    assert snapshot.annotations.count() == snapshot.counts["pairs"] == 1
    with pytest.raises(CannotStart, match="There is no safety comparison"):
        snapshots.write_snapshot("safety")


def test_closing_it_trains_nothing():
    batch = ordered(count=2)
    prefers(batch, "bob", lambda number: True)
    people(batch)
    assert set(Run.objects.values_list("kind", flat=True)) == {"sampling"}


def test_no_download_of_ratings_or_comments_holds_it(bob):
    batch = ordered(count=2)
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(choice="a", strength="better")
    Remark.objects.create(annotation=annotation, a_rating=7, comment="A fine answer.")
    assert not exports.remarks().exists()
    assert list(exports.lines("ratings.jsonl")) == list(exports.lines("comments.jsonl")) == []


# --- the interval to expect -----------------------------------------------------------------------


@pytest.mark.parametrize(("count", "points"), [(50, 14), (100, 10), (200, 7), (400, 5), (800, 3)])
def test_the_width_to_expect(count, points):
    assert round(100 * side_by_side.expected_half_width(count)) == points


def test_the_width_comes_true():
    """Of 200 comparisons, half won, the bootstrap's interval is as wide as was told."""
    batch = open_batch(comparisons=0)
    credits = [float(number % 2) for number in range(200)]
    found = side_by_side._summary(batch, [str(number) for number in range(200)], credits)
    told = side_by_side.expected_half_width(200)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(told, rel=0.1)  # 2,000 draws


def test_a_response_knows_its_checkpoint_without_a_release():
    batch = ordered(count=2)
    rows = Response.objects.filter(prompt__comparisons__batch=batch)
    assert {row.variant for row in rows} == {None}
    assert json.dumps(filling(batch).config)
    assert prompt_set("Another").counts["test"] == 6
