"""The live process, and the models that it talks to; how an answer is read, and keys pressed."""

import csv
import io
import json

import pytest

from annotation_app import storage
from annotation_app.models import Checkpoint, Release
from tests.annotation_app.scoring import promoted
from tests.annotation_app.talking import LiveProcess, release_both
from tests.reward.chat_server import Answer, chat_server


@pytest.fixture(scope="module")
def process():
    process = LiveProcess()
    yield process
    process.close()


@pytest.fixture
def talker(talker, db):
    release_both()
    return talker


@pytest.fixture
def models(talker) -> list[Checkpoint]:
    """Both starters, the second of them released no more."""
    found = list(Checkpoint.objects.order_by("pk"))
    for row in found:
        (storage.path(row.storage_key) / "config.json").write_text("{}")
    Release.objects.get(checkpoint=found[1]).withdraw(None, "Too slow.")
    return found


@pytest.fixture
def rewards(settings, talker):
    """A stand-in of the reward server: helpfulness 2, safety -3, a hundredth for each character."""

    def answer(request: dict) -> Answer:
        base = 2.0 if request["model"].endswith("helpfulness") else -3.0
        scores = [base + len(chat[-1]["content"]) / 100 for chat in request["conversations"]]
        return Answer(json.dumps({"scores": scores}).encode())

    with chat_server(answer) as server:
        settings.SCORER_URL = server.address
        for criterion in ("helpfulness", "safety"):
            promoted(criterion)
        yield server


def text(answer) -> str:
    return answer.content.decode()


def rows(answer) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text(answer))))


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
