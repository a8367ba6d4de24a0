"""The live process, and the models that it talks to."""

import pytest

from tests.annotation_app.talking import LiveProcess, Talker, release_both


@pytest.fixture(scope="module")
def process():
    process = LiveProcess()
    yield process
    process.close()


@pytest.fixture
def talker(settings, tmp_path, db):
    talker = Talker()
    settings.SAMPLER_URL, settings.STORAGE_ROOT = talker.url, tmp_path
    release_both()
    yield talker
    talker.close()
