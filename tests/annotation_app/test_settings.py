"""Wrong values of the environment: each stops the start with one sentence that shows no key."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from annotation_app import settings

WEB = "allowed is http:// or https:// and a host, without a key"
DATABASE = "DATABASE_URL cannot be used, allowed are sqlite:///FILE and postgres://"


def started(monkeypatch, **environment: str) -> dict[str, Any]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(settings.__file__)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"DEBUG": "yes"}, "DEBUG is 'yes', allowed are true, false"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL is 'LOUD', allowed are DEBUG, INFO, WARNING, ERROR"),
        ({"GPU_WORKERS": "0"}, "GPU_WORKERS is '0', allowed is a number from 1 to 64"),
        ({"TOP_P": "much"}, "TOP_P is 'much', allowed is a number from 0.01 to 1.0"),
        ({"SITE_URL": "nonsense"}, f"SITE_URL is 'nonsense', {WEB}"),
        ({"SITE_URL": "http://host:port"}, f"SITE_URL is 'http://host:port', {WEB}"),
        ({"SITE_URL": "http://["}, f"SITE_URL is 'http://[', {WEB}"),
        ({"SAMPLER_URL": "host:8001"}, f"SAMPLER_URL is 'host:8001', {WEB}"),
        ({"SAMPLER_URL": "http://me:secret@host"}, f"SAMPLER_URL cannot be used, {WEB}"),
        ({"SCORER_URL": "https://"}, f"SCORER_URL is 'https:', {WEB}"),
        ({"JUDGE_URL": "ftp://host", "JUDGE_MODEL": "m"}, f"JUDGE_URL is 'ftp://host', {WEB}"),
        ({"JUDGE_URL": "http://me:secret@host"}, f"JUDGE_URL cannot be used, {WEB}"),
        ({"JUDGE_URL": "http://host/?key=secret"}, f"JUDGE_URL cannot be used, {WEB}"),
        ({"JUDGE_URL": "http://host"}, "JUDGE_MODEL is '', allowed are both or none"),
        ({"JUDGE_MODEL": "m"}, "JUDGE_URL is '' and JUDGE_MODEL is 'm'"),
        (
            {"REDIS_URL": "http://:secret@host:6379/0"},
            "REDIS_URL cannot be used, allowed is redis:// or rediss:// and a host",
        ),
        ({"DATABASE_URL": "nonsense"}, DATABASE),
        ({"DATABASE_URL": "mysql://me:secret@host/name"}, DATABASE),
        (
            {"HEARTBEAT_SECONDS": "600"},
            "HEARTBEAT_SECONDS is 600, allowed is less than LEASE_SECONDS, 600",
        ),
        ({"LIVE_URL": "tandem.example"}, "LIVE_URL is 'tandem.example', allowed is an origin"),
        ({"LIVE_URL": "https://host/live"}, "LIVE_URL is 'https://host/live', allowed is an"),
        ({"LIVE_URL": "https://"}, "LIVE_URL is 'https:', allowed is an origin"),
        ({"LOW_TEMPERATURE": "1.5"}, "LOW_TEMPERATURE is 1.5, allowed is at most HIGH_TEMPERATURE"),
        ({"RUN_SETTINGS": "/none"}, "RUN_SETTINGS is '/none', allowed is a JSON file"),
        ({"TASKS_FOLDER": "/none"}, "TASKS_FOLDER is '/none', allowed is a folder"),
    ],
)
def test_a_wrong_value_is_one_sentence(monkeypatch, given, sentence):
    with pytest.raises(ImproperlyConfigured) as refused:
        started(monkeypatch, **given)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)


def test_values_that_are_allowed(monkeypatch):
    read = started(
        monkeypatch,
        LOG_LEVEL="warning",
        DEBUG="TRUE",
        SITE_URL="https://tandem.example/",
        SAMPLER_URL="",
        SAMPLER_PORT="7",
        SCORER_URL="http://[::1]:8003",
        REDIS_URL="rediss://:secret@host:6379/0",
        DATABASE_URL="postgres://me:secret@host/name",
    )
    assert read["LOGGING"]["root"]["level"] == "WARNING"
    assert read["DEBUG"] is True
    assert read["SITE_URL"] == "https://tandem.example"
    assert read["SAMPLER_URL"] == "http://127.0.0.1:7"
    assert read["SCORER_URL"] == "http://[::1]:8003"
    assert read["REDIS_URL"] == "rediss://:secret@host:6379/0"
    assert read["DATABASES"]["default"]["HOST"] == "host"
