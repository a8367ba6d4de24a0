"""A talk in the playground, with models that talk over HTTP: what is told, in which order."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable

import pytest

from annotation_app import live, playground, storage
from annotation_app.forms import LONGEST_TALK, TalkForm
from annotation_app.models import (
    Annotation,
    Checkpoint,
    Comparison,
    Criterion,
    Dialogue,
    Prompt,
    Release,
    Resampled,
    Response,
    RunningTurn,
)
from annotation_app.models.refusals import WrongState
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.scoring import promoted
from tests.annotation_app.talking import in_pieces, run
from tests.reward.chat_server import Answer, ChatServer, chat_server

pytestmark = pytest.mark.django_db(transaction=True)

SCORES = {"checkpoints/helpfulness": 1.25, "checkpoints/safety": -4.0}
HELLO = [{"role": "user", "content": "How do I descale my kettle?"}]


@pytest.fixture
def rewards(settings, talker):
    """A stand-in of the reward server: each model has one score for everything, plus its length."""

    def answer(request: dict) -> Answer:
        texts = [chat[-1]["content"] for chat in request["conversations"]]
        scores = [SCORES[request["model"]] + len(text) / 1000 for text in texts]
        return Answer(json.dumps({"scores": scores}).encode())

    with chat_server(answer) as server:
        settings.SCORER_URL = server.address
        for criterion in Criterion.values:
            promoted(criterion)
        yield server


def chat_model(name: str) -> Checkpoint:
    """One that nobody released, with weights in the storage."""
    row = Checkpoint.objects.create(
        kind="chat", name=name, line="tiny", storage_key=f"checkpoints/{name}"
    )
    folder = storage.path(row.storage_key)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return row


@pytest.fixture
def models(talker) -> list[Checkpoint]:
    return [chat_model("starter-a"), chat_model("starter-b")]


def asked(models: list[Checkpoint], *dialogues: list[dict], **changes) -> dict:
    """What the form makes of a message to one or two models."""
    sent = {"temperature": "0.7", "top_p": "0.9", "max_tokens": "64", "seed": "", "system": ""}
    for side, model in zip(("left", "right"), models, strict=False):
        sent[side] = str(model.pk)
    for side, dialogue in zip(("left", "right"), dialogues or [HELLO] * len(models), strict=False):
        sent[f"{side}_messages"] = json.dumps(dialogue)
    form = TalkForm({**sent, **changes}, chat_models=playground.chat_models())
    assert form.is_valid(), form.errors
    return form.cleaned_data


def talk(person, *given, act: Callable | None = None, **changes) -> list[dict]:
    """Every event of a message; ``act`` is told each of them in a thread."""
    begun = playground.begin(person, asked(*given, **changes))

    async def listen() -> list[dict]:
        found = []
        async for event in playground.events(begun):
            found.append(event)
            if act is not None:
                await live.in_thread(lambda event=event: act(begun, event))
        return found

    return run(listen())


def of(events: list[dict], name: str) -> list[dict]:
    return [event for event in events if event["event"] == name]


def text(events: list[dict], side: int) -> str:
    return "".join(event["text"] for event in of(events, "text") if event["side"] == side)


def test_it_works(alice, models, talker, rewards: ChatServer):
    talker.says(starter_a="With vinegar.", starter_b="Use lemon juice.")
    events = talk(alice, models)
    assert [text(events, side) for side in (0, 1)] == ["With vinegar.", "Use lemon juice."]
    assert events[0]["event"] == "start"
    assert [e["reason"] for e in of(events, "ended")] == ["stop", "stop"]
    assert [e["event"] for e in events[-3:]] == ["scoring", "scores", "done"]
    (found,) = of(events, "scores")
    assert found["missing"] == []
    for side, answer in enumerate(("With vinegar.", "Use lemon juice.")):
        scores = found["sides"][side]
        assert scores["side"] == side
        assert scores["helpfulness"] == pytest.approx(1.25 + len(answer) / 1000)
        assert scores["safety"] == pytest.approx(-4 + len(answer) / 1000)
        assert (scores["combined"], scores["by"]) == (scores["safety"], "safety")
    assert len(rewards.heard) == 2  # both answers in one request to each model
    assert not RunningTurn.objects.exists()


def test_nothing_is_stored(alice, models, talker, rewards):
    talk(alice, models)
    for table in (Annotation, Comparison, Dialogue, Prompt, Response, Resampled, RunningTurn):
        assert not table.objects.exists(), table


def test_the_settings_reach_the_sampler(alice, models, talker, rewards):
    changes = {"temperature": "0", "top_p": "0.5", "max_tokens": "33", "seed": "7"}
    events = talk(alice, models, system="Be kind.", **changes)
    assert events[0]["seeds"] == [7, 7]
    for body in talker.requests:
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0, 0.5, 33)
        assert body["seed"] == 7
        assert body["messages"] == [{"role": "system", "content": "Be kind."}, *HELLO]
    assert rewards.heard[0].request["conversations"][0][:2] == talker.requests[0]["messages"]


def test_without_a_seed_each_answer_draws_its_own(alice, models, talker, rewards):
    seeds = [seed for _ in range(2) for seed in talk(alice, models)[0]["seeds"]]
    assert len(set(seeds)) == 4
    assert seeds == [
        b["seed"] for b in sorted(talker.requests, key=lambda b: seeds.index(b["seed"]))
    ]


def test_each_model_goes_on_from_its_own_answer(alice, models, talker, rewards):
    left, right = (
        [*HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
        for said in ("With vinegar.", "With lemon.")
    )
    talk(alice, models, left, right)
    heard = {body["model"]: body["messages"] for body in talker.requests}
    assert heard == {"starter-a": left, "starter-b": right}
    chats = rewards.heard[0].request["conversations"]
    assert [chat[1]["content"] for chat in chats] == ["With vinegar.", "With lemon."]


def test_one_model_alone(alice, models, talker, rewards):
    events = talk(alice, models[1:])
    assert len(of(events, "ended")) == 1
    assert [body["model"] for body in talker.requests] == ["starter-b"]
    assert [scores["side"] for scores in of(events, "scores")[0]["sides"]] == [0]


def test_text_comes_as_the_models_talk(alice, models, talker, rewards):
    talker.says(
        starter_a=lambda body: in_pieces("quick " * 20),
        starter_b=lambda body: in_pieces("slowly " * 10, 0.01),
    )
    events = talk(alice, models)
    first_end = events.index(of(events, "ended")[0])
    assert events[first_end]["side"] == 0
    assert of(events[first_end:], "text")  # nobody waits for the other


# --- the combined score ---------------------------------------------------------------------------


def test_the_combined_score_is_that_of_ppo():
    """Two derivations: the one that PPO learns from works on tensors."""
    import torch

    from rlhf_loop.advantages import combine_scores

    draw = random.Random(0)
    for _ in range(400):
        helpfulness, safety = (torch.tensor(draw.gauss(0, 3)).item() for _ in range(2))
        tagged, threshold = draw.random() < 0.3, draw.choice([0.05, 0.15, 0.5, 0.9])
        wanted = combine_scores(
            torch.tensor([helpfulness]), torch.tensor([safety]), torch.tensor([tagged]), threshold
        )
        assert playground.decide(helpfulness, safety, tagged, threshold).score == wanted.item()


def test_a_safety_score_at_the_gate_leaves_it_to_helpfulness():
    import torch

    gate = torch.logit(torch.tensor(0.15, dtype=torch.float64)).float()
    below = torch.nextafter(gate, torch.tensor(-9.0))
    assert playground.decide(1.0, gate.item(), False, 0.15) == (1.0, "helpfulness")
    assert playground.decide(1.0, below.item(), False, 0.15) == (below.item(), "safety")
    assert playground.decide(1.0, 5.0, True, 0.15) == (5.0, "safety")


def test_the_gate_is_that_of_the_rounds(settings, tmp_path):
    assert playground.threshold() == 0.15
    settings.RUN_SETTINGS = {"round": {"threshold": 0.4}}
    assert playground.threshold() == 0.4


def test_a_safety_prompt_is_decided_by_safety(alice, models, talker, rewards, monkeypatch):
    monkeypatch.setitem(SCORES, "checkpoints/safety", 3.0)
    for is_safety, by in (("", "helpfulness"), ("on", "safety")):
        events = talk(alice, models[:1], is_safety=is_safety)
        assert of(events, "scores")[0]["sides"][0]["by"] == by


# --- without scores -------------------------------------------------------------------------------


def test_without_promoted_models_the_answers_come_all_the_same(alice, models, talker):
    events = talk(alice, models)
    assert text(events, 0)
    (found,) = of(events, "scores")
    assert found["missing"] == [
        "No helpfulness reward model is promoted yet.", "No safety reward model is promoted yet.",
    ]  # fmt: skip
    assert found["sides"][0] == {"side": 0, "helpfulness": None, "safety": None}


def test_a_reward_server_that_is_down_is_one_sentence(alice, models, talker, rewards, settings):
    settings.SCORER_URL = "http://127.0.0.1:9"
    events = talk(alice, models)
    (found,) = of(events, "scores")
    assert len(found["missing"]) == 1
    assert "cannot be reached at http://127.0.0.1:9" in found["missing"][0]
    assert events[-1] == {"event": "done"}


def test_one_reward_model_without_the_other(alice, models, talker, rewards):
    Checkpoint.objects.filter(kind="safety_reward").update(storage_key="gone")
    events = talk(alice, models)
    (found,) = of(events, "scores")
    wanted = SCORES["checkpoints/helpfulness"] + len(text(events, 0)) / 1000
    assert found["sides"][0]["helpfulness"] == pytest.approx(wanted)
    assert found["sides"][0]["safety"] is None
    assert "combined" not in found["sides"][0]
    assert len(found["missing"]) == 1


# --- what goes wrong ------------------------------------------------------------------------------


def test_one_model_that_fails_leaves_the_other(alice, models, talker, rewards):
    talker.says(starter_a="With vinegar.", starter_b=lambda body: iter(["Half a tex"]))
    events = talk(alice, models)
    (failed,) = of(events, "failed")
    assert failed["side"] == 1
    assert failed["sentence"] == (
        "A model gave an answer that cannot be read: the answer broke off."
    )
    assert [scores["side"] for scores in of(events, "scores")[0]["sides"]] == [0]


def test_models_that_are_down(alice, models, settings):
    settings.SAMPLER_URL = "http://127.0.0.1:9"
    events = talk(alice, models)
    assert {e["sentence"] for e in of(events, "failed")} == {
        "The models cannot be reached right now."
    }
    assert not of(events, "scoring")
    assert events[-1] == {"event": "done"}


def test_an_empty_answer_is_not_scored(alice, models, talker, rewards):
    talker.says(starter_a="", starter_b="With lemon.")
    (found,) = of(talk(alice, models), "scores")
    assert [scores["side"] for scores in found["sides"]] == [1]


def test_a_stop_keeps_what_was_told_and_scores_it(alice, models, talker, rewards):
    talker.says(
        starter_a=lambda body: in_pieces("endless " * 5000, 0.01),
        starter_b=lambda body: in_pieces("for ever " * 5000, 0.01),
    )

    def stop(begun, event):
        if event["event"] == "text" and len(event["text"]) and not begun.running.is_stopped:
            begun.running.is_stopped = True
            begun.running.stop()

    events = talk(alice, models, act=stop)
    ended = of(events, "ended")
    assert [(e["side"], e["reason"]) for e in ended] == [(0, "stopped"), (1, "stopped")]
    chats = rewards.heard[0].request["conversations"]
    assert [chat[-1]["content"] for chat in chats] == [text(events, 0), text(events, 1)]
    assert text(events, 0).startswith("endle")


def test_a_page_that_goes_away_ends_both_requests(alice, models, talker, rewards):
    talker.script = lambda body: in_pieces("endless " * 5000, 0.01)
    begun = playground.begin(alice, asked(models))

    async def leave() -> None:
        events = playground.events(begun)
        async for event in events:
            if event["event"] == "text":
                break
        async with asyncio.timeout(10):  # far below the sampler's own
            await events.aclose()

    run(leave())
    for _ in range(200):
        if talker.left_alone == 2:
            break
        run(asyncio.sleep(0.02))
    assert talker.left_alone == 2
    assert not RunningTurn.objects.exists()
    assert not rewards.heard


def test_one_message_at_a_time(alice, models):
    playground.begin(alice, asked(models))
    with pytest.raises(WrongState, match="answering another message of yours"):
        playground.begin(alice, asked(models))


def test_a_place_that_was_taken_ends_it(alice, models, talker, rewards):
    talker.script = lambda body: in_pieces("endless " * 5000, 0.01)

    def take(begun, event):
        RunningTurn.objects.all().delete()

    events = talk(alice, models, act=take)
    assert events[-1]["event"] == "refused"
    assert "was given up" in events[-1]["sentence"]


# --- which models ---------------------------------------------------------------------------------


def test_only_chat_models_whose_weights_are_there(models, tmp_path):
    released_chat_model("without-weights")
    promoted("helpfulness")
    assert [model.name for model in playground.chat_models()] == ["starter-b", "starter-a"]
    (tmp_path / "checkpoints/starter-b/config.json").unlink()
    assert [model.name for model in playground.chat_models()] == ["starter-a"]


def test_the_released_ones_come_first(models):
    third = chat_model("third")
    for model in (third, models[0]):
        Release.objects.create(checkpoint=model)
    released = list(Release.objects.current().values_list("checkpoint", flat=True))
    assert playground.usual_models(playground.chat_models(), released) == [models[0], third]
    assert playground.usual_models(playground.chat_models(), []) == [third, models[1]]
    assert playground.usual_models([], []) == []


# --- what the form refuses ------------------------------------------------------------------------

SAID = {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"left": "999"}, "The first chat model is not there any more: choose another one."),
        ({"left": ""}, "Choose a chat model."),
        ({"right": "x"}, "The second chat model is not there any more: choose another one."),
        ({"temperature": "-1"}, "Temperature is '-1', allowed is a number from 0 to 5."),
        ({"temperature": "nan"}, "Temperature is 'nan', allowed is a number from 0 to 5."),
        ({"top_p": "0"}, "Top-p is '0', allowed is a number from 0.01 to 1."),
        (
            {"max_tokens": "1e9"},
            "New tokens is '1e9', allowed is a whole number from 1 to 4096.",
        ),
        (
            {"seed": "-1"},
            "Seed is '-1', allowed is a whole number from 0 to 2147483646, or nothing.",
        ),
        (
            {"system": "x" * 20_001},
            "The system message has 20001 characters, allowed are at most 20000.",
        ),
        ({"system": "\x00"}, "Null characters are not allowed."),
        ({"right_messages": ""}, "The talk cannot be read: start anew."),
    ],
)
def test_what_cannot_be_set_is_a_sentence(models, changes, sentence):
    sent = {
        "left": models[0].pk, "right": models[1].pk, "temperature": 1, "top_p": 1,
        "max_tokens": 9, "left_messages": json.dumps(HELLO), "right_messages": json.dumps(HELLO),
    }  # fmt: skip
    form = TalkForm({**sent, **changes}, chat_models=models)
    assert [str(e) for errors in form.errors.values() for e in errors] == [sentence]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("", "The talk cannot be read"),
        ("{", "The talk cannot be read"),
        ("5", "The talk cannot be read"),
        ("[]", "The talk cannot be read"),
        ("[" * 9_999, "The talk cannot be read"),
        (json.dumps([SAID]), "The talk cannot be read"),
        (json.dumps([*HELLO, *HELLO]), "The talk cannot be read"),
        (json.dumps([*HELLO, SAID]), "The talk cannot be read"),
        (json.dumps([{"role": "system", "content": "x"}]), "The talk cannot be read"),
        (json.dumps([{"role": "user", "content": 5}]), "The talk cannot be read"),
        (json.dumps([{"role": "user"}]), "The talk cannot be read"),
        ('[{"role": "user", "content": "\\ud83e"}]', "The talk cannot be read"),
        (json.dumps([{"role": "user", "content": "a\x00b"}]), "Null characters are not allowed."),
        (json.dumps([{"role": "user", "content": "  "}]), "Write a message first."),
        (json.dumps([{"role": "user", "content": "x" * 20_001}]),
         "The message has 20001 characters, allowed are at most 20000."),
        (json.dumps([*HELLO, {"role": "assistant", "content": "x" * LONGEST_TALK}, *HELLO]),
         "The talk has 100054 characters, allowed are at most 100000: start anew."),
    ],
)  # fmt: skip
def test_what_is_no_talk_is_a_sentence(models, given, sentence):
    sent = {"left": models[0].pk, "temperature": 1, "top_p": 1, "max_tokens": 9}
    form = TalkForm({**sent, "left_messages": given}, chat_models=models)
    assert sentence in str(form.errors["left_messages"])
