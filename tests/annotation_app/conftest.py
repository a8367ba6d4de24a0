"""The cast: Alice researches, Bob annotates, Charlie must never get in, Dora administers,
Rita reviews.
"""

from functools import cache

import pytest
from django.contrib.auth.hashers import make_password

from annotation_app.models import Person, PromptSet
from annotation_app.models.promotion import Promotion
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.talking import Talker
from tests.annotation_app.trained import trained


def _person(name: str, role: str) -> Person:
    return Person.objects.create(username=name, password=_hashed(f"{name}'s password"), role=role)


@cache
def _hashed(password: str) -> str:
    """A million rounds by design, so once for all tests."""
    return make_password(password)


@pytest.fixture
def alice(db):
    return _person("alice", "researcher")


@pytest.fixture
def bob(db):
    return _person("bob", "annotator")


@pytest.fixture
def charlie(db):
    return _person("charlie", "annotator")


@pytest.fixture
def dora(db):
    return _person("dora", "administrator")


@pytest.fixture
def rita(db):
    return _person("rita", "reviewer")


@pytest.fixture
def as_alice(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def as_bob(client, bob):
    client.force_login(bob)
    return client


@pytest.fixture
def as_rita(client, rita):
    client.force_login(rita)
    return client


@pytest.fixture
def storage_root(settings, tmp_path):
    """A storage of the test's own."""
    settings.STORAGE_ROOT = tmp_path


@pytest.fixture
def talker(settings, storage_root):
    """Chat models that say what a test wants."""
    talker = Talker()
    settings.SAMPLER_URL = talker.url
    yield talker
    talker.close()


@pytest.fixture
def round_can_start(settings, tmp_path):
    """Two promoted reward models, a released chat model, prompts; a round's settings to be set."""
    settings.STORAGE_ROOT = tmp_path / "storage"
    released_chat_model()
    for criterion in ("helpfulness", "safety"):
        Promotion.promote(trained(criterion))
    PromptSet.objects.create(name="set", storage_key="prompts/set.jsonl", sha256="", counts={})

    def set_up(**round_settings: object) -> None:
        stages = ["rejection", "ppo", "evaluate"]
        settings.RUN_SETTINGS = {"round": {"stages": stages, **round_settings}}

    set_up()
    return set_up


def read(answer) -> str:
    """A page as it reads, whatever its lines."""
    return " ".join(answer.content.decode().split())


@pytest.fixture(autouse=True)
def plain_static_files(settings):
    """Without collectstatic there is no manifest of hashed names."""
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
