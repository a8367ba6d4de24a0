"""From a checkpoint back to the runs, snapshots, batches and people behind it."""

from __future__ import annotations

import pytest

from annotation_app import snapshots
from annotation_app.lineage import annotations_of, by_batch, by_criterion, lineage, totals
from annotation_app.models import Annotation, Batch, Checkpoint, DemonstrationSet, Run
from tests.annotation_app.played import begun, played, stage
from tests.annotation_app.rows import comparison, open_batch, released_chat_model

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_cap(settings, storage_root):
    settings.HOLDOUT_CAP_PER_BATCH = 1_000


def judged(criterion: str, *people, comparisons: int = 3) -> Batch:
    """A closed batch in which each of these people judged each comparison."""
    batch = open_batch(criterion, overlap=len(people), comparisons=comparisons)
    for who in people:
        while (annotation := Annotation.objects.lease_next(who, batch)) is not None:
            safe = {"a_safe": True, "b_safe": True} if criterion == "safety" else {}
            annotation.record(choice="a", strength="better", **safe)
    batch.close()
    batch.finish_closing()
    return batch


def made(run: Run, kind: str, name: str) -> Checkpoint:
    return Checkpoint.objects.create(
        kind=kind, name=name, line="tiny", storage_key=f"runs/{run.pk}/model", run=run
    )


def trained(criterion: str, start: Checkpoint) -> Checkpoint:
    """A reward model on everything collected so far."""
    inputs = {"start": start, "snapshot": snapshots.write_snapshot(criterion)}
    run = Run.queue(Run.Kind.REWARD_TRAINING, {}, inputs, criterion=criterion)
    run.claim()
    run.succeed()
    return made(run, f"{criterion}_reward", f"{criterion} reward")


def tuned(round_, kind: str, policy: Checkpoint) -> Checkpoint:
    """A training stage of the round, from this policy."""
    run = stage(round_, kind, result={"model": "model"})
    run.inputs.filter(role="policy").update(checkpoint=policy)
    return made(run, "chat", f"{round_.name} by {kind}")


def turned(policy: Checkpoint) -> Checkpoint:
    """A whole round from this chat model, on reward models of everything collected so far."""
    round_ = begun(policy=policy)
    round_.helpfulness, round_.safety = (trained(c, policy) for c in ("helpfulness", "safety"))
    round_.save()
    drawn = tuned(round_, "rejection", policy)
    model = tuned(round_, "ppo", drawn)
    round_.end_cancelled()
    return model


@pytest.fixture
def start(db):
    return released_chat_model().checkpoint


def test_it_works(bob, charlie, start):
    helpful, safe = judged("helpfulness", bob, charlie), judged("safety", bob)
    model = turned(start)
    led = lineage(model)
    kinds = [step.run.kind for step in led.steps]
    assert kinds == ["ppo", "rejection", "reward_training", "reward_training"]
    assert led.steps[0].made == model
    assert led.brought_in == [start]
    assert len(led.snapshots) == 2
    assert [it.name for it in led.prompt_sets] == ["prompts"]
    annotations = annotations_of(led.snapshots)
    assert totals(annotations) == {
        "annotations": 9, "annotators": 2, "comparisons": 6, "batches": 2,
    }  # fmt: skip
    told = [(row["criterion"], row["annotations"], row["annotators"])
            for row in by_criterion(annotations)]  # fmt: skip
    assert told == [("helpfulness", 6, 2), ("safety", 3, 1)]
    found = {it.batch: it for it in by_batch(annotations)}
    assert found.keys() == {helpful, safe}
    assert found[helpful].trained + found[helpful].held_out == 3
    assert (found[helpful].annotations, found[helpful].annotators) == (6, 2)


def test_demonstrations_that_a_round_learnt_from(start):
    round_ = begun(policy=start)
    model = tuned(round_, "sft", start)
    frozen = DemonstrationSet.objects.create(storage_key="demonstrations/1.jsonl", sha256="0" * 64)
    assert model.run is not None
    model.run.inputs.create(role="demonstrations", demonstration_set=frozen)
    assert lineage(model).demonstration_sets == [(frozen, 0)]


def test_the_annotations_are_those_of_the_checkpoint(bob, start):
    judged("helpfulness", bob)
    judged("safety", bob)
    first = turned(start)
    judged("helpfulness", bob, comparisons=2)
    second = turned(first)
    wanted = set(Annotation.objects.all())
    judged("safety", bob, comparisons=4)  # after it, so not behind it
    found = annotations_of(lineage(second).snapshots)
    assert set(found) == wanted
    assert totals(found)["annotations"] == 8


def test_held_out_comparisons_train_nothing(bob, start):
    batch = judged("helpfulness", bob, comparisons=6)
    judged("safety", bob)
    roots = {it.prompt.dialogue.root for it in batch.comparisons.all()}
    for root in list(roots)[:2]:
        root.split = "holdout"
        root.save()
    for root in list(roots)[2:]:
        root.split = "train"
        root.save()
    found = {it.batch: it for it in by_batch(annotations_of(lineage(turned(start)).snapshots))}
    assert (found[batch].trained, found[batch].held_out) == (4, 2)


def test_what_came_in_has_nothing_behind_it(start):
    led = lineage(start)
    assert (led.steps, led.snapshots, led.brought_in) == ([], [], [start])
    assert totals(annotations_of(led.snapshots))["annotations"] == 0


def test_earlier_rounds_whose_answers_competed(bob, start):
    held = played()  # a round whose model went nowhere
    held.hold()
    judged("helpfulness", bob)
    judged("safety", bob)
    model = turned(start)
    drawn = next(s for s in lineage(model).steps if s.run.kind == "rejection")
    assert drawn.pool == list(held.runs.filter(kind="rejection"))
    run = drawn.run
    run.config = {**run.config, "rejection": {"pool": False}}
    run.save()
    drawn = next(s for s in lineage(model).steps if s.run.kind == "rejection")
    assert drawn.pool == []


def test_queries_do_not_grow_with_comparisons(bob, start, django_assert_num_queries):
    judged("safety", bob)
    judged("helpfulness", bob, comparisons=2)
    few = turned(start)
    batch = judged("helpfulness", bob, comparisons=20)
    assert batch.comparisons.count() == 20
    many = turned(start)
    for model in (few, many):
        with django_assert_num_queries(8):
            annotations = annotations_of(lineage(model).snapshots)
            totals(annotations), by_criterion(annotations), by_batch(annotations)


def test_a_circle_ends(start):
    """No run makes what it reads, but a walk that trusted that would never end."""
    round_ = begun(policy=start)
    model = tuned(round_, "ppo", start)
    model.run.inputs.filter(role="policy").update(checkpoint=model)
    assert len(lineage(model).steps) == 1


def test_comparisons_that_nobody_froze_are_not_behind_it(bob, start):
    judged("helpfulness", bob)
    judged("safety", bob)
    model = turned(start)
    late = Batch.objects.filter(criterion="helpfulness").get()
    comparison(late, "Asked too late?")
    assert totals(annotations_of(lineage(model).snapshots))["comparisons"] == 6
