"""A draft filled by an address: the platform's settings, its command, and the answers it poses."""

from __future__ import annotations

import sys

import pytest

from annotation_app import exchange, storage
from annotation_app.lifecycle import releases, runs
from annotation_app.models import Batch, Comparison, Release, Run
from annotation_app.supervise import child_environment
from reward.preferences import Message
from reward.settings import parse
from rlhf_loop.config import SamplingConfig
from rlhf_loop.engines import Here, answer_prompts
from rlhf_loop.policy import Drawing, answer_text, load_chat_model
from rlhf_loop.sampling import main
from tests.annotation_app.ended import prompt_set
from tests.annotation_app.rows import released_chat_model
from tests.reward.chat_server import chat_server
from tests.rlhf_loop.drawing_server import LastHanded
from tests.tiny_models import tiny_chat_model

NAMES = ("starter", "newer")


@pytest.fixture(autouse=True)
def two_released(db, storage_root) -> list[Release]:
    """Two small models that answer, each in a folder of its own."""
    found = [released_chat_model(name) for name in NAMES]
    for seed, release in enumerate(found):
        tiny_chat_model(storage.path(release.checkpoint.storage_key), seed=seed)
    return found


def queued(settings, **sampling) -> tuple[Batch, Run]:
    settings.RUN_SETTINGS = {"sampling": {"comparisons": 3, "max_new_tokens": 8, **sampling}}
    batch = Batch.draft_next("helpfulness", is_filled=False)
    return batch, releases.queue_filling(batch, prompt_set())


def test_the_command_hands_over_the_folders_of_both_models(settings, two_released):
    _, run = queued(settings, address="http://engine", hand_over="reload.sh {folder}")
    words = exchange.command(run)
    assert words[:3] == [sys.executable, "-m", "rlhf_loop.sampling"]
    asked = parse(SamplingConfig, "rlhf_loop.sampling", words[3:])
    assert (asked.address, asked.hand_over) == ("http://engine", "reload.sh {folder}")
    folders = {storage.path(release.checkpoint.storage_key) for release in two_released}
    assert set(asked.model) == folders
    assert len(asked.temperature) == 2


def test_only_the_address_that_is_configured_now_is_asked_and_given_the_key(settings):
    settings.SAMPLER_API_KEY = "key"
    _, run = queued(settings, address="http://engine")
    assert child_environment(run)["SAMPLER_API_KEY"] == "key"
    settings.RUN_SETTINGS = {"sampling": {"address": "http://other"}}
    with pytest.raises(ValueError, match="http://engine was to draw the answers, but the settings"):
        exchange.command(run)


def test_an_address_fills_it_with_both_models_answers(settings, tmp_path):
    """By the run's own command and a real server; each answer is what its model draws here."""
    engine = LastHanded(tmp_path / "note")
    with chat_server(engine) as server:
        batch, run = queued(settings, address=server.address, hand_over=engine.hand_over)
        assert run.claim()
        main(exchange.command(run)[3:])
        assert {heard.path for heard in server.heard} == {"/v1/completions"}
    assert runs.run_succeeded(run, exchange.run_folder(run).result())
    batch.refresh_from_db()
    assert batch.is_filled
    posed = Comparison.objects.filter(batch=batch)
    assert posed.count() == 3
    answers = [answer for one in posed for answer in (one.response_a, one.response_b)]
    assert {answer.checkpoint.name for answer in answers} == set(NAMES)
    loaded = {name: load_chat_model(storage.path(f"checkpoints/{name}"), "cpu") for name in NAMES}
    for answer in answers:
        model, tokenizer = loaded[answer.checkpoint.name]
        asked = [Message(**message) for message in answer.prompt.messages]
        drawing = Drawing(8, answer.temperature, answer.top_p)
        [drawn] = answer_prompts(Here(model, tokenizer, 1), [asked], [answer.seed], drawing)
        assert answer.text == answer_text(tokenizer, drawn)
