"""A turn of a live dialogue, with models that talk over HTTP: what is told and what is stored."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random
from threading import Event

import pytest
from django.utils import timezone

from annotation_app import live
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Dialogue,
    Organisation,
    Person,
    Prompt,
    Release,
    Resampled,
    Response,
    RunningTurn,
    Seat,
    Side,
    Skill,
)
from annotation_app.models.refusals import (
    BatchClosed,
    MayNotWork,
    NothingReleased,
    SamplerUnavailable,
    WrongState,
)
from tests.annotation_app.rows import open_batch, released_chat_model
from tests.annotation_app.talking import End, converse, in_pieces, release_both, run

pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = "How do I descale my kettle?"


@pytest.fixture
def bob(talker) -> Person:
    release_both()
    return Person.objects.create_user("bob")


@pytest.fixture
def batch(bob) -> Batch:
    return open_batch(comparisons=0)


def nothing_stored() -> bool:
    tables = (Dialogue, Prompt, Response, Comparison, Annotation, RunningTurn)
    return not any(table.objects.exists() for table in tables)


def on_screen(events: list[dict]) -> dict[str, str]:
    """What stands on either side after all these events."""
    sides = {"left": "", "right": ""}
    for event in events:
        if event["event"] == "resampling":
            sides[event["side"]] = ""
        for side in sides:
            sides[side] += event.get(side, "")
    return sides


def posed(events: list[dict]) -> Annotation:
    assert events[-1]["event"] == "done", events[-1]
    return Annotation.objects.get(pk=events[-1]["annotation"])


def refused(events: list[dict]) -> str:
    assert events[-1]["event"] == "refused", events[-1]
    return events[-1]["sentence"]


def judged(annotation: Annotation, choice: str = "a") -> Annotation:
    annotation.record(choice=choice, strength="better")
    return annotation


def go_on(annotation: Annotation, text: str = "And then?") -> list[dict]:
    before = live.standing(annotation.comparison.prompt.dialogue)
    return converse(annotation.annotator, annotation.comparison.batch, text, before)


# --- the answers become a comparison --------------------------------------------------------------


def test_it_works(bob, batch, talker):
    events = converse(bob, batch, QUESTION)
    assert events[0]["event"] == "start"
    annotation = posed(events)
    assert (annotation.state, annotation.annotator) == ("leased", bob)
    comparison = annotation.comparison
    assert comparison.prompt.user_message == QUESTION
    assert (comparison.prompt.turn, comparison.prompt.parent) == (1, None)
    responses = [comparison.response_a, comparison.response_b]
    assert {r.checkpoint.name for r in responses} == {"starter-a", "starter-b"}
    asked = {body["seed"]: body for body in talker.requests}
    for response in responses:
        body = asked[response.seed]
        assert response.text == f"Answer {response.seed} and a little more."
        assert response.finish_reason == "stop"
        assert (body["temperature"], body["top_p"]) == (response.temperature, response.top_p)
        assert response.checkpoint.storage_key.endswith(body["model"])
    assert not RunningTurn.objects.exists()
    assert Seat.objects.get(annotator=bob, batch=batch).draws == 1


def test_what_stood_left_on_the_screen_stands_left_to_be_judged(bob, batch, monkeypatch):
    monkeypatch.setattr(live.secrets, "choice", Random(0).choice)
    lefts = set()
    for _ in range(12):
        events = converse(bob, batch, QUESTION)
        annotation = posed(events)
        sides = on_screen(events)
        assert sides["left"] == annotation.comparison.response(annotation.shown_left).text
        right = Side(annotation.shown_left).other
        assert sides["right"] == annotation.comparison.response(right).text
        lefts.add(annotation.shown_left)
        annotation.skip()
    assert lefts == {"a", "b"}


def test_a_quick_and_a_slow_model_look_alike(bob, batch, talker):
    talker.says(
        starter_a=lambda body: in_pieces("quick " * 60),
        starter_b=lambda body: in_pieces("slowly " * 24, seconds=0.03),
    )
    events = converse(bob, batch, QUESTION)
    steps = [(len(e["left"]), len(e["right"])) for e in events if e["event"] == "text"]
    together = [step for step in steps if all(step)]
    assert len(together) > 5
    assert all(left == right for left, right in together[:-1])  # the last may be the shorter's end
    assert max(map(max, steps[len(together) :])) <= max(map(max, together))
    posed(events)


def test_a_safety_turn_carries_its_risk_and_its_attack(bob):
    batch = open_batch("safety", comparisons=0)
    risk = {"risk_category": "hateful_and_harmful", "attack_vector": "semantic"}
    annotation = judged(posed(converse(bob, batch, QUESTION, **risk)))
    prompts = [annotation.comparison.prompt, posed(go_on(annotation)).comparison.prompt]
    for prompt in prompts:
        assert prompt.is_safety
        assert (prompt.risk_category, prompt.attack_vector) == tuple(risk.values())


# --- the chosen answer continues the dialogue -----------------------------------------------------


def test_the_chosen_answer_continues(bob, batch, talker):
    first = judged(posed(converse(bob, batch, QUESTION)), "b")
    second = posed(go_on(first))
    prompt = second.comparison.prompt
    assert prompt.dialogue == first.comparison.prompt.dialogue
    assert (prompt.turn, prompt.parent) == (2, first.comparison.response_b)
    assert [m["content"] for m in prompt.messages] == [
        QUESTION, first.comparison.response_b.text, "And then?",
    ]  # fmt: skip
    assert all(body["messages"] == prompt.messages for body in talker.requests[2:])
    first.comparison.refresh_from_db()
    assert first.comparison.continued_with == "b"
    assert second.comparison.continued_with == ""


def test_an_undo_after_going_on_does_not_rewrite_it(bob, batch):
    first = judged(posed(converse(bob, batch, QUESTION)), "b")
    second = posed(go_on(first))
    first.revise(choice="a", strength="better")
    first.comparison.refresh_from_db()
    assert first.comparison.continued_with == "b"
    standing = live.standing(first.comparison.prompt.dialogue)
    assert standing.waiting == second


def test_an_undo_before_going_on_changes_what_continues(bob, batch):
    first = judged(posed(converse(bob, batch, QUESTION)), "b")
    first.revise(choice="a", strength="better")
    second = posed(go_on(first))
    assert second.comparison.prompt.parent == first.comparison.response_a


def test_a_turn_that_waits_to_be_judged_comes_first(bob, batch, talker):
    annotation = posed(converse(bob, batch, QUESTION))
    with pytest.raises(WrongState, match="Judge the two answers to your last message first"):
        go_on(annotation)
    assert len(talker.requests) == 2


def test_after_a_skipped_turn_the_message_is_written_anew(bob, batch):
    first = judged(posed(converse(bob, batch, QUESTION)))
    skipped = posed(go_on(first))
    skipped.skip()
    assert live.standing(skipped.comparison.prompt.dialogue).message == "And then?"
    third = posed(go_on(first, "What then?"))
    assert third.comparison.prompt.turn == 2
    assert third.comparison.prompt.parent == skipped.comparison.prompt.parent
    assert live.standing(skipped.comparison.prompt.dialogue).message == ""


def test_other_annotators_do_not_move_the_dialogue(bob, talker):
    batch = open_batch(comparisons=0, overlap=2)
    first = posed(converse(bob, batch, QUESTION))
    other = Person.objects.create_user("charlie")
    theirs = Annotation.objects.lease_next(other, batch)
    assert theirs.comparison == first.comparison
    judged(theirs, "b")
    standing = live.standing(first.comparison.prompt.dialogue)
    assert (standing.judged, standing.waiting) == (None, first)


# --- answers that nobody could judge --------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (lambda body: in_pieces(""), "an empty answer"),
        (lambda body: in_pieces("  "), "an empty answer"),
        (lambda body: in_pieces("I am not done", reason="length"), "an answer that is cut off"),
        (lambda body: in_pieces("I am Starter-B, hello."), "an answer that names the model"),
    ],
)
def test_one_that_never_gets_better_is_refused_and_kept(bob, batch, talker, said, words):
    talker.says(starter_a="With vinegar.", starter_b=said)
    assert f"gave {words} 3 times in a row" in refused(converse(bob, batch, QUESTION))
    assert nothing_stored()
    kept = list(Resampled.objects.all())
    assert [(r.reason, r.annotator, r.variant.release.checkpoint.name) for r in kept] == [
        (words, bob, "starter-b")
    ] * 3
    assert kept[0].messages == [{"role": "user", "content": QUESTION}]


def test_identical_answers_are_asked_for_again(bob, batch, talker):
    talker.script = lambda body: in_pieces("With vinegar.")
    assert "gave identical answers 3 times" in refused(converse(bob, batch, QUESTION))
    assert nothing_stored()
    assert len(talker.requests) == 4  # the first one is kept


def test_the_second_try_is_served(bob, batch, talker):
    tries = []

    def second_is_better(body):
        tries.append(body)
        return in_pieces("Use water only." if len(tries) > 1 else "I am starter-b, you know.")

    talker.says(starter_a="With vinegar, and let it stand for a night.", starter_b=second_is_better)
    events = converse(bob, batch, QUESTION)
    annotation = posed(events)
    texts = {annotation.comparison.response_a.text, annotation.comparison.response_b.text}
    assert texts == {"Use water only.", "With vinegar, and let it stand for a night."}
    assert set(on_screen(events).values()) == texts
    assert sum(event["event"] == "resampling" for event in events) == 1
    assert Resampled.objects.get().text.startswith("I am starter-b")
    assert "starter" not in "".join(e.get("left", "") + e.get("right", "") for e in events)


def test_a_text_already_shown_is_withdrawn(bob, batch, talker):
    tries, shown = [], Event()

    def cut_off_at_first(body):
        tries.append(body)
        if len(tries) > 1:
            yield from in_pieces("Short and whole.")
            return
        yield "A long text that will never come to its end " * 3
        shown.wait(10)
        yield End("length")

    talker.says(starter_a="Another text. " * 9, starter_b=cut_off_at_first)
    turn, events = live.begin_turn(bob, batch, None, QUESTION), []

    async def listen() -> None:
        async for event in live.events(turn):
            events.append(event)
            if event["event"] == "text":
                shown.set()

    run(listen())
    withdrawn = next(n for n, e in enumerate(events) if e["event"] == "resampling")
    assert any(event["event"] == "text" for event in events[:withdrawn])
    assert "Short and whole." in on_screen(events).values()
    posed(events)


# --- the stop -------------------------------------------------------------------------------------


def stop_after(turn: live.Turn, texts: int) -> list[dict]:
    """The events of a turn that is stopped, by its row, after so many texts."""

    async def listen() -> list[dict]:
        events = []
        async for event in live.events(turn):
            events.append(event)
            if sum(e["event"] == "text" for e in events) >= texts:
                await live.in_thread(turn.running.stop)
        return events

    return run(listen())


def test_a_stop_keeps_what_is_on_the_screen(bob, batch, talker):
    talker.says(
        starter_a=lambda body: in_pieces("endless " * 5000, 0.01),
        starter_b=lambda body: in_pieces("for ever " * 5000, 0.01),
    )
    events = stop_after(live.begin_turn(bob, batch, None, QUESTION), texts=3)
    comparison = posed(events).comparison
    responses = [comparison.response_a, comparison.response_b]
    assert {r.text for r in responses} == set(on_screen(events).values())
    assert {r.finish_reason for r in responses} == {"stopped"}
    assert len(responses[0].text) == len(responses[1].text) > 0


def test_one_that_was_whole_already_stays_whole(bob, batch, talker):
    talker.says(
        starter_a="Yes, with vinegar.",
        starter_b=lambda body: in_pieces("for ever " * 5000, 0.01),
    )
    events = stop_after(live.begin_turn(bob, batch, None, QUESTION), texts=4)
    comparison = posed(events).comparison
    ends = {r.text: r.finish_reason for r in (comparison.response_a, comparison.response_b)}
    assert ends.pop("Yes, with vinegar.") == "stop"
    assert list(ends.values()) == ["stopped"]


def test_a_stop_before_both_have_begun_has_nothing_to_judge(bob, batch, talker):
    talker.says(starter_a="Yes.", starter_b=lambda body: iter([3.0, "No.", End("stop")]))
    sentence = refused(stop_after(live.begin_turn(bob, batch, None, QUESTION), texts=0))
    assert "one answer had not begun" in sentence
    assert nothing_stored()


def test_a_stop_while_both_are_alike_has_nothing_to_judge(bob, batch, talker):
    talker.script = lambda body: in_pieces("The same " * 5000, 0.01)
    sentence = refused(stop_after(live.begin_turn(bob, batch, None, QUESTION), texts=1))
    assert "both were alike" in sentence
    assert nothing_stored()


# --- what ends badly stores nothing ---------------------------------------------------------------


def test_a_model_that_breaks_off(bob, batch, talker):
    talker.says(starter_a="With vinegar.", starter_b=lambda body: iter(["Half a tex"]))
    assert "cannot be read" in refused(converse(bob, batch, QUESTION))
    assert nothing_stored()


def test_models_that_are_down(bob, batch, settings):
    settings.SAMPLER_URL = "http://127.0.0.1:9"
    assert "cannot be reached" in refused(converse(bob, batch, QUESTION))
    assert nothing_stored()


def test_a_batch_that_closed_meanwhile(bob, batch):
    turn = live.begin_turn(bob, batch, None, QUESTION)
    batch.close()

    async def listen() -> list[dict]:
        return [event async for event in live.events(turn)]

    assert "takes no new messages now" in refused(run(listen()))
    assert nothing_stored()


def test_a_page_that_goes_away_ends_both_requests(bob, batch, talker):
    talker.script = lambda body: in_pieces("endless " * 5000, 0.01)
    turn = live.begin_turn(bob, batch, None, QUESTION)

    async def leave() -> None:
        events = live.events(turn)
        async for event in events:
            if event["event"] == "text":
                break
        await events.aclose()

    run(leave())
    for _ in range(200):
        if talker.left_alone == 2:
            break
        run(live.asyncio.sleep(0.02))
    assert talker.left_alone == 2
    assert nothing_stored()


def test_the_place_is_free_before_the_page_hears_of_the_end(bob, batch):
    turn = live.begin_turn(bob, batch, None, QUESTION)

    async def listen() -> None:
        async for event in live.events(turn):
            held = await live.in_thread(RunningTurn.objects.exists)
            assert held == (event["event"] != "done"), event

    run(listen())


def test_a_page_that_goes_away_while_the_place_is_given_back(bob, batch):
    running, busy = live.begin_turn(bob, batch, None, QUESTION).running, Event()

    async def leave() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        leaving = asyncio.Event()

        async def stay() -> None:
            async with live.place_at_models(running):
                asyncio.get_running_loop().run_in_executor(None, busy.wait)
                leaving.set()

        staying = asyncio.create_task(stay())
        await leaving.wait()
        await asyncio.sleep(0.05)  # it waits for a thread that would give the place back
        staying.cancel()
        await asyncio.wait([staying])
        busy.set()
        while await live.in_thread(RunningTurn.objects.exists):
            await asyncio.sleep(0.01)

    run(asyncio.wait_for(leave(), 10))


# --- who may --------------------------------------------------------------------------------------


def test_one_turn_at_a_time(bob, batch):
    running = live.begin_turn(bob, batch, None, QUESTION).running
    with pytest.raises(WrongState, match="answering another message of yours"):
        live.begin_turn(bob, batch, None, QUESTION)
    RunningTurn.objects.update(renewed_at=timezone.now() - timedelta(seconds=20))
    assert live.begin_turn(bob, batch, None, QUESTION).running != running  # its process had died
    with pytest.raises(WrongState, match="was given up"):
        running.is_asked_to_stop()


def test_a_running_turn_is_renewed(bob, batch):
    running = live.begin_turn(bob, batch, None, QUESTION).running
    RunningTurn.objects.update(renewed_at=timezone.now() - timedelta(seconds=9))
    assert not running.is_asked_to_stop()
    assert RunningTurn.objects.get().renewed_at > timezone.now() - timedelta(seconds=2)


def test_without_a_released_model(talker, db):
    bob = Person.objects.create_user("bob")
    with pytest.raises(NothingReleased, match="No chat model is released"):
        live.begin_turn(bob, open_batch(comparisons=0), None, QUESTION)
    assert nothing_stored()


def test_missing_weights_are_reported_before_the_models_are_asked(talker):
    bob = Person.objects.create_user("bob")
    released_chat_model()
    with pytest.raises(SamplerUnavailable, match="missing from the storage"):
        live.begin_turn(bob, open_batch(comparisons=0), None, QUESTION)
    assert not talker.requests
    assert nothing_stored()


def test_a_closed_batch(bob, batch):
    batch.close()
    with pytest.raises(BatchClosed, match="takes no new messages"):
        live.begin_turn(bob, batch, None, QUESTION)


def test_a_batch_without_written_prompts(bob, batch):
    Batch.objects.update(takes_written_prompts=False)
    with pytest.raises(BatchClosed, match="takes no new messages"):
        live.begin_turn(bob, batch, None, QUESTION)


def paused(bob: Person, batch: Batch) -> str:
    bob.pause("Please call me.")
    return "Your work is paused: Please call me."


def unskilled(bob: Person, batch: Batch) -> str:
    batch.required_skills.add(Skill.objects.create(name="Chemistry"))
    return "asks for what you do not have yet: Chemistry"


def at_their_limit(bob: Person, batch: Batch) -> str:
    Batch.objects.update(most_per_annotator=1)
    converse(bob, batch, QUESTION)
    return "You have had your 1 comparisons"


def no_safety(bob: Person, batch: Batch) -> str:
    Person.objects.update(does_safety=False)
    return "chosen not to do safety work"


def enough_safety(bob: Person, batch: Batch) -> str:
    Organisation.objects.create(pk=1, safety_daily_cap=0)
    return "0 safety comparisons are enough"


@pytest.mark.parametrize("rule", [paused, unskilled, at_their_limit, no_safety, enough_safety])
def test_who_gets_no_work_gets_no_dialogue(bob, talker, rule):
    batch = open_batch("safety", comparisons=0)
    sentence = rule(bob, batch)
    asked = len(talker.requests)
    with pytest.raises(MayNotWork, match=sentence):
        live.begin_turn(bob, batch, None, QUESTION)
    assert len(talker.requests) == asked


def test_only_releases_with_a_weight_are_asked(bob, batch, talker):
    Release.objects.filter(checkpoint__name="starter-a").update(weight=0)
    posed(converse(bob, batch, QUESTION))
    assert {body["model"] for body in talker.requests} == {"starter-b"}
    assert len({body["temperature"] for body in talker.requests}) == 2
