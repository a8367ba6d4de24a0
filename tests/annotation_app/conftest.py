"""The cast: Alice researches, Bob annotates, Charlie must never get in, Dora administers,
Rita reviews.
"""

from functools import cache

import pytest
from django.contrib.auth.hashers import make_password

from annotation_app.models import Person
from tests.annotation_app.talking import Talker


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
