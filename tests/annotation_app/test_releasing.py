"""Release and roll-back: what the gate holds, what a reason opens, and what follows for batches."""

from __future__ import annotations

import threading

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from annotation_app import live, snapshots, storage
from annotation_app.lifecycle import releases, training
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Person,
    Release,
    Round,
    Run,
    Variant,
)
from annotation_app.models.refusals import WrongState
from rlhf_loop.prompts import PromptSplit
from tests.annotation_app.ended import (
    FALLEN,
    RISEN,
    WHY,
    chat,
    ended,
    figures,
    filling,
    prompt,
    prompt_set,
    sampled,
)
from tests.annotation_app.rows import open_batch, released_chat_model

pytestmark = pytest.mark.django_db
BAD = "It refuses every question about kettles."


@pytest.fixture(autouse=True)
def plain_settings(settings, storage_root):
    settings.RUN_SETTINGS = None


def again(row):
    return type(row).objects.get(pk=row.pk)


def drafts(criterion: str = "helpfulness") -> list[Batch]:
    """Oldest first."""
    return list(
        Batch.objects.preference().filter(criterion=criterion, state="draft").order_by("pk")
    )


def answerers(batch: Batch) -> set[str]:
    usable = Comparison.objects.usable().filter(batch=batch)
    sides = usable.values_list("response_a__checkpoint__name", "response_b__checkpoint__name")
    return {name for pair in sides for name in pair}


def released(by: Person | None = None) -> tuple[Round, Release]:
    round_ = ended()
    return round_, releases.release_round(round_, by)


# --- the gate -------------------------------------------------------------------------------------


def test_it_works(alice):
    round_, release = released(alice)
    assert (round_.state, release.reason, release.released_by) == ("released", "", alice)
    assert (release.round, release.checkpoint) == (round_, round_.result)
    assert [len(drafts(c)) for c in ("helpfulness", "safety")] == [1, 1]


@pytest.mark.parametrize(("scores", "state"), [(RISEN, "evaluated"), (FALLEN, "held")])
def test_a_round_ends_as_its_gate_says(scores, state):
    round_ = ended("running", evaluation={})
    assert round_.finish(figures(*scores))
    assert (round_.state, round_.held_by) == (state, None)


def test_a_round_whose_gate_was_never_asked_is_held():
    round_ = ended("running", evaluation={})
    round_.finish({"all": None})
    assert round_.state == "held"


def test_a_held_round_needs_a_reason(alice):
    round_ = ended("held", FALLEN)
    with pytest.raises(WrongState, match="RLHF-V1 is held: to release it give a reason"):
        releases.release_round(round_, alice)
    assert not drafts()
    assert again(round_).state == "held"
    release = releases.release_round(round_, alice, WHY)
    assert (again(round_).state, release.reason) == ("released", WHY)


def test_a_round_that_came_to_be_held_since_the_page_was_shown_needs_one_too():
    seen = ended()
    again(seen).judge_again(figures(*FALLEN))
    with pytest.raises(WrongState, match="to release it give a reason"):
        releases.release_round(seen, None)
    assert Release.objects.count() == 1


@pytest.mark.parametrize("state", ["queued", "running", "failed", "cancelled", "released"])
def test_no_other_round_is_released_with_whatever_reason(state):
    with pytest.raises(WrongState, match=f"RLHF-V1 is {state}; only an evaluated round"):
        releases.release_round(ended(state), None, WHY)


def test_released_twice_at_once_it_is_one_release():
    round_ = ended()
    first, second = again(round_), again(round_)
    releases.release_round(first, None)
    with pytest.raises(WrongState, match="is released; only an evaluated round"):
        releases.release_round(second, None, WHY)
    assert Release.objects.filter(checkpoint=round_.result).count() == 1
    assert len(drafts()) == 1


def test_what_a_person_holds_the_gate_does_not_let_go(alice):
    held, by_gate = ended(), ended("held", FALLEN)
    held.hold(alice)
    for round_ in (held, by_gate):
        round_.judge_again(figures(*RISEN))
    assert (held.state, held.held_by, by_gate.state) == ("held", alice, "evaluated")
    released = ended("released")
    released.judge_again(figures(*FALLEN))
    assert released.state == "released"
    assert not released.evaluation["gate"]["passes"]


# --- back -----------------------------------------------------------------------------------------


def test_rolling_back(alice):
    round_, release = released(alice)
    before = timezone.now()
    releases.roll_back(release, alice, BAD)
    release = again(release)
    assert again(round_).state == "rolled_back"
    assert before <= release.withdrawn_at <= timezone.now()
    assert (release.withdrawn_by, release.withdrawn_reason) == (alice, BAD)
    assert {v.release.checkpoint.name for v in Variant.pair()} == {"starter"}
    assert training.newest_chat_model().name == "starter"


def test_the_last_one_that_answers_stays():
    only = released_chat_model()
    with pytest.raises(WrongState, match="starter is the last chat model that answers"):
        releases.roll_back(only, None, BAD)
    round_, release = released()
    Release.objects.exclude(pk=release.pk).update(weight=0)
    with pytest.raises(WrongState, match="RLHF-V1 is the last chat model that answers"):
        releases.roll_back(release, None, BAD)
    assert (again(round_).state, again(release).withdrawn_at) == ("released", None)


def test_rolled_back_twice_it_is_one_roll_back(alice):
    _, release = released()
    first, second = again(release), again(release)
    releases.roll_back(first, alice, BAD)
    with pytest.raises(WrongState, match="RLHF-V1 was rolled back already"):
        releases.roll_back(second, None, "Another reason.")
    assert again(release).withdrawn_reason == BAD


def test_a_release_without_a_round_goes_back_too():
    released_chat_model("older")
    newer = released_chat_model("newer")
    prompt_set()
    releases.roll_back(newer, None, BAD)
    assert [r.checkpoint.name for r in Release.objects.current()] == ["older"]


def test_what_was_rolled_back_is_released_again_with_a_reason():
    round_, release = released()
    releases.roll_back(release, None, BAD)
    with pytest.raises(WrongState, match="RLHF-V1 is rolled back: to release it give a reason"):
        releases.release_round(again(round_), None)
    releases.release_round(again(round_), None, WHY)
    assert again(round_).state == "released"
    assert [(r.reason, r.withdrawn_reason) for r in Release.objects.history()[:2]] == [
        (WHY, ""), ("", BAD)
    ]  # fmt: skip


def test_the_database_wants_a_reason_for_what_is_withdrawn():
    release = released_chat_model()
    with pytest.raises(IntegrityError), transaction.atomic():
        Release.objects.filter(pk=release.pk).update(withdrawn_at=release.released_at)


@pytest.mark.django_db(transaction=True)
def test_of_two_that_answer_only_one_is_rolled_back_at_once():
    """Two people, two releases, one moment: one is refused, and something still answers."""
    prompt_set()
    pair = [released_chat_model("one"), released_chat_model("two")]
    start, refused = threading.Barrier(2), []

    def back(release: Release) -> None:
        try:
            start.wait()
            releases.roll_back(release, None, BAD)
        except WrongState as refusal:
            refused.append(str(refusal))
        finally:
            connection.close()

    threads = [threading.Thread(target=back, args=[release]) for release in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert "is the last chat model that answers" in refused[0]
    assert Release.objects.answering().count() == 1


# --- the next batches -----------------------------------------------------------------------------


def filled_by(criterion: str = "helpfulness") -> set[str]:
    """Whose answers the newest draft is being filled with."""
    run = filling(drafts(criterion)[-1])
    return {run.input(role).name for role in ("first", "second")}


def test_after_a_roll_back_batches_hold_the_current_and_the_previous_model():
    """The starter answers before the first of three rounds; each roll-back goes one back."""
    _, first = released()
    _, second = released()
    third_round, third = released()
    assert filled_by() == {"RLHF-V3", "RLHF-V2"}
    releases.roll_back(third, None, BAD)
    assert filled_by() == {"RLHF-V2", "RLHF-V1"}
    releases.release_round(again(third_round), None, WHY)
    assert filled_by() == {"RLHF-V3", "RLHF-V2"}
    releases.roll_back(Release.objects.current()[0], None, BAD)
    releases.roll_back(second, None, BAD)
    assert filled_by() == {"RLHF-V1", "starter"}
    releases.roll_back(first, None, BAD)
    assert filled_by() == {"starter"}


def test_a_draft_that_holds_its_answers_is_filled_anew():
    _, release = released()
    (draft,) = drafts()
    sampled(filling(draft))
    assert answerers(draft) == {"starter", "RLHF-V1"}
    asked = Comparison.objects.filter(batch=draft).count()
    releases.roll_back(release, None, BAD)
    draft.refresh_from_db()
    assert (draft.is_filled, answerers(draft)) == (False, set())
    reasons = set(Comparison.objects.values_list("unusable_reason", flat=True))
    assert reasons == {"RLHF-V1 was rolled back"}
    sampled(filling(draft))
    draft.refresh_from_db()
    assert (draft.is_filled, answerers(draft)) == (True, {"starter"})
    assert Comparison.objects.usable().filter(batch=draft).count() == asked
    assert len(drafts()) == 1


def test_a_draft_that_is_still_being_filled_by_it_is_not():
    _, release = released()
    (draft,) = drafts()
    before = filling(draft)
    releases.roll_back(release, None, BAD)
    assert again(before).state == "cancelled"
    assert filling(draft) != before
    assert filling(draft).input("first").name == filling(draft).input("second").name == "starter"


def test_a_filling_that_ends_after_the_roll_back_fills_nothing():
    _, release = released()
    (draft,) = drafts()
    late = filling(draft)
    late.claim()
    releases.roll_back(release, None, BAD)
    late.refresh_from_db()
    assert late.cancel_requested
    Run.objects.filter(pk=late.pk).update(state="queued")  # its end was on its way
    sampled(again(late))
    draft.refresh_from_db()
    assert (draft.is_filled, answerers(draft)) == (False, set())
    sampled(filling(draft))
    assert answerers(draft) == {"starter"}


def test_an_open_batch_goes_on_with_what_it_has(bob):
    _, release = released()
    (draft,) = drafts()
    sampled(filling(draft))
    draft.refresh_from_db()
    draft.open()
    leased = Annotation.objects.lease_next(bob, draft)
    releases.roll_back(release, None, BAD)
    leased.record(choice="a", strength="better")
    assert again(leased).state == "recorded"
    assert answerers(draft) == {"starter", "RLHF-V1"}
    again_leased = Annotation.objects.lease_next(bob, draft)
    assert again_leased.comparison.batch == draft
    assert again_leased.comparison != leased.comparison
    (following,) = drafts()  # one more, drafted from what is current now
    sampled(filling(following))
    assert answerers(following) == {"starter"}


def test_a_draft_of_other_models_is_left_alone():
    _, older = released()
    (draft,) = drafts()
    sampled(filling(draft))
    newer = Release.objects.create(checkpoint=chat("newer"))
    releases.roll_back(newer, None, BAD)
    draft.refresh_from_db()
    assert draft.is_filled
    assert answerers(draft) == {"starter", older.checkpoint.name}
    assert len(drafts()) == 1


def test_without_prompts_to_fill_a_draft_with_it_is_rolled_back_all_the_same():
    released_chat_model("older")
    newer = released_chat_model("newer")
    texts = [prompt(f"How long, {number}?", PromptSplit.TRAIN) for number in range(3)]
    snapshots.write_prompt_set("Only helpfulness", texts)
    releases.roll_back(newer, None, BAD)
    assert [r.checkpoint.name for r in Release.objects.current()] == ["older"]
    assert [len(drafts(c)) for c in ("helpfulness", "safety")] == [1, 0]


def test_nor_does_a_criterion_without_prompts_forbid_a_release():
    texts = [prompt(f"How long, {number}?", PromptSplit.TRAIN) for number in range(3)]
    snapshots.write_prompt_set("Only helpfulness", texts)
    round_, _ = released()
    assert round_.state == "released"
    assert [len(drafts(c)) for c in ("helpfulness", "safety")] == [1, 0]


def test_a_turn_of_a_dialogue_in_flight_ends_with_what_it_asked(bob):
    _, release = released()
    batch = open_batch(comparisons=0)
    Release.objects.exclude(pk=release.pk).update(weight=1e-9)
    for model in Release.objects.select_related("checkpoint"):
        storage.path(model.checkpoint.storage_key).mkdir(parents=True)
    turn = live.begin_turn(bob, batch, None, "How do I descale my kettle?")
    releases.roll_back(release, None, BAD)
    annotation = live.store(turn, [live.Answer(f"Answer {n}.", n, "stop") for n in (1, 2)])
    names = {annotation.comparison.response(side).checkpoint.name for side in "ab"}
    assert names == {"starter", "RLHF-V1"}
    annotation.record(choice="a", strength="better")
    turn.running.delete()
    following = live.begin_turn(bob, batch, None, "And my toaster?")
    assert {v.release.checkpoint.name for v in following.variants} == {"starter"}


def test_a_draft_that_is_being_filled_cannot_be_opened_by_hand():
    released()
    (draft,) = drafts()
    with pytest.raises(WrongState, match="is being filled; it opens by itself"):
        draft.open()


@pytest.mark.parametrize(("state", "ended_so"), [("failed", "failed"), ("cancelled", "was canc")])
def test_nor_one_whose_filling_has_ended_without_answers(state, ended_so):
    released()
    (draft,) = drafts()
    run = filling(draft)
    Run.objects.filter(pk=run.pk).update(state=state)
    with pytest.raises(WrongState, match=f"is not filled: {run} {ended_so}"):
        draft.open()
