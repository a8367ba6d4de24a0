"""The live process, and the models that it talks to; how an answer is read, and keys pressed."""

import csv
import io

import pytest

from tests.annotation_app.talking import LiveProcess, release_both


@pytest.fixture(scope="module")
def process():
    process = LiveProcess()
    yield process
    process.close()


@pytest.fixture
def talker(talker, db):
    release_both()
    return talker


def text(answer) -> str:
    return answer.content.decode()


def rows(answer) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text(answer))))


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
