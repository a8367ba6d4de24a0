"""draft → open → closing → closed, and what closing asks for."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from annotation_app import storage, tasks
from annotation_app.lifecycle import training
from annotation_app.models import Annotation, Batch, DialogueRoot, Person, Run
from annotation_app.models.refusals import CannotStart, WrongState
from reward.preferences import read_pairs
from tests.annotation_app.rows import (
    comparison,
    open_batch,
    released_chat_model,
    turn_batches,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_held_out(settings, storage_root):
    settings.HOLDOUT_SHARE = 0.0


def answer_all(batch: Batch, name: str = "bob", choice: str = "a") -> None:
    bob, _ = Person.objects.get_or_create(username=name)
    while (annotation := Annotation.objects.lease_next(bob, batch)) is not None:
        annotation.record(choice=choice, strength="better")


def test_it_works():
    released_chat_model()
    batch = open_batch()
    answer_all(batch)
    training.close_batch(batch)
    turn_batches()
    batch.refresh_from_db()
    assert batch.state == "closed"
    run = Run.objects.get()
    assert (run.kind, run.criterion, run.state) == ("reward_training", "helpfulness", "queued")
    snapshot = run.input("snapshot")
    assert set(snapshot.annotations.all()) == set(Annotation.objects.all())
    pairs = list(read_pairs(storage.path(snapshot.storage_key) / "pairs.jsonl"))
    assert [pair.strength for pair in pairs] == ["better"] * 3
    assert {pair.chosen for pair in pairs} == {"Two years."}


def test_closing_waits_for_the_last_lease():
    released_chat_model()
    batch = open_batch()
    answer_all(batch, "charlie")
    late = Batch.objects.get(pk=batch.pk)
    comparison(late, "One more?")
    bob = Person.objects.create_user("bob")
    annotation = Annotation.objects.lease_next(bob, batch)
    batch.close()
    turn_batches()
    batch.refresh_from_db()
    assert batch.state == "closing"
    assert not Run.objects.exists()
    annotation.record(choice="b", strength="better")
    turn_batches()
    batch.refresh_from_db()
    assert batch.state == "closed"
    assert Run.objects.get().input("snapshot").annotations.count() == 4


def test_each_closed_batch_trains_whatever_waits_already():
    """The run that waits has an older snapshot, in which this batch's answers are not."""
    released_chat_model()
    for _ in range(2):
        batch = open_batch()
        answer_all(batch)
        training.close_batch(batch)
        turn_batches()
    runs = Run.objects.waiting()
    assert [run.input("snapshot").annotations.count() for run in runs] == [3, 6]
    with pytest.raises(CannotStart, match="is queued already"):
        training.queue_reward_training("helpfulness")


def test_what_goes_wrong_with_one_batch_keeps_no_other_from_closing(monkeypatch):
    sent = []
    monkeypatch.setattr(tasks, "send", lambda name, *ids, **kept: sent.append((name, *ids)))
    closing = [open_batch("helpfulness"), open_batch("safety")]
    draft = Batch.draft_next("helpfulness")
    for batch in closing:
        batch.close()
    tasks.turn_batches()
    assert sorted(sent) == [("finish_batch", batch.pk) for batch in closing]
    monkeypatch.setattr(training, "finish_batch", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tasks.finish_batch(closing[0].pk)
    monkeypatch.undo()
    tasks.finish_batch(closing[1].pk)
    tasks.finish_batch(closing[1].pk)  # a second delivery
    assert Batch.objects.get(pk=closing[1].pk).state == "closed"
    tasks.finish_batch(closing[0].pk)
    draft.refresh_from_db()
    assert draft.state == "open"


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_one_finishes_a_batch(monkeypatch):
    """Writing a snapshot takes its time: the second worker does not wait for the first."""
    batch = open_batch()
    batch.close()
    begun, go_on, asked = threading.Event(), threading.Event(), []

    def slow(found: Batch) -> None:
        asked.append(found.pk)
        begun.set()
        assert go_on.wait(30)
        found.finish_closing()

    monkeypatch.setattr(training, "finish_batch", slow)

    def work() -> None:
        tasks.finish_batch(batch.pk)
        connection.close()

    first, second = (threading.Thread(target=work) for _ in range(2))
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(1 if connection.vendor == "sqlite" else 30)  # one writer at a time there
    go_on.set()
    for thread in (first, second):
        thread.join(30)
        assert not thread.is_alive()
    assert asked == [batch.pk]
    assert Batch.objects.get(pk=batch.pk).state == "closed"


def test_closing_twice_is_refused():
    batch = open_batch()
    batch.close()
    with pytest.raises(WrongState, match="is closing; only a batch that is open"):
        batch.close()


def test_two_open_batches_of_one_criterion_are_refused():
    open_batch()
    with pytest.raises(WrongState, match="Another helpfulness batch is open"):
        open_batch()


def test_beat_closes_what_is_due_and_opens_the_next_draft():
    released_chat_model()
    batch = open_batch()
    following = Batch.draft_next("helpfulness")
    Batch.objects.filter(pk=batch.pk).update(deadline=timezone.now() - timedelta(seconds=1))
    turn_batches()
    batch.refresh_from_db()
    following.refresh_from_db()
    assert (batch.state, following.state) == ("closed", "open")
    assert following.deadline > timezone.now()


def test_beat_closes_a_batch_at_its_quota():
    batch = open_batch()
    Batch.objects.filter(pk=batch.pk).update(quota=2)
    bob = Person.objects.create_user("bob")
    for _ in range(2):
        Annotation.objects.lease_next(bob, batch).record(choice="a", strength="better")
    turn_batches()
    batch.refresh_from_db()
    assert batch.state == "closed"


def test_a_draft_that_is_still_being_filled_stays_closed_to_annotators():
    draft = Batch.draft_next("helpfulness", is_filled=False)
    turn_batches()
    draft.refresh_from_db()
    assert draft.state == "draft"


def test_training_without_annotations_is_refused_with_a_sentence():
    released_chat_model()
    with pytest.raises(CannotStart, match="no helpfulness comparison with a choice"):
        training.queue_reward_training("helpfulness")


def test_holdout_roots_never_reach_the_training_file():
    released_chat_model()
    batch = open_batch(comparisons=6)
    held_out = list(DialogueRoot.objects.values_list("hash", flat=True)[:2])
    DialogueRoot.objects.filter(hash__in=held_out).update(split="holdout")
    answer_all(batch)
    snapshot = training.queue_reward_training("helpfulness").input("snapshot")
    folder = storage.path(snapshot.storage_key)
    assert {pair.root for pair in read_pairs(folder / "holdout.jsonl")} == set(held_out)
    assert not {pair.root for pair in read_pairs(folder / "pairs.jsonl")} & set(held_out)


def test_excluded_and_surplus_answers_are_not_exported():
    released_chat_model()
    batch = open_batch(comparisons=2)
    answer_all(batch)
    Annotation.objects.order_by("pk")[0].exclude("clicked at random")
    snapshot = training.queue_reward_training("helpfulness").input("snapshot")
    assert snapshot.counts["pairs"] == 1
    assert snapshot.annotations.count() == 1
