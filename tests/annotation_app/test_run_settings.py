"""The file that RUN_SETTINGS names: read at start, refused with file, line and what is allowed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.conf import settings as configured
from django.core.exceptions import ImproperlyConfigured

from annotation_app import exchange
from annotation_app.run_settings import read_run_settings

KINDS = "prompt_set, reward_judging, reward_training, round, sampling"


def test_it_works():
    found = read_run_settings(configured.BASE_DIR / "demo" / "run_settings.json")
    assert found["reward_training"]["pairs_per_step"] == 32
    assert found == configured.RUN_SETTINGS


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ('{"round": {\n"threshold": 0.2,}}', 2, "it is no JSON: "),
        ("[1]", 1, f"it holds '[1]', allowed is an object with an object for each kind of run: "
         f"{KINDS}"),
        ('{\n"sampling": {},\n"reward_model": {}}', 3, "the kind is 'reward_model', allowed is an "
         f"object with an object for each kind of run: {KINDS}"),
        ('{"round":\n7}', 1, "round is 7, allowed is an object with an object for each kind"),
        ('{"round": {\n"launcher": "torchrun"}}', 2, "round names a launcher, allowed is the "
         "environment's TRAIN_LAUNCHER"),
        ('{"round": {\n"threshold": 1}}', 2, "the threshold of round is 1, allowed is a number "
         "between 0 and 1"),
        ('{"round": {\n"threshold": NaN}}', 2, "the threshold of round is nan, allowed is"),
        ('{"round": {\n"threshold": "low"}}', 2, "the threshold of round is 'low', allowed is"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, line, sentence):
    file = tmp_path / "run_settings.json"
    file.write_text(text)
    with pytest.raises(ImproperlyConfigured) as refused:
        read_run_settings(file)
    assert str(refused.value).startswith(f"RUN_SETTINGS, {file}, line {line}: {sentence}")


@pytest.mark.parametrize("kinds", [
    '{"sampling": {\n"address": "https://u:secret@host"}}',
    '{"round": {"ppo": {\n"address": "https://host?key=secret"}}}',
    '{"round": {"evaluate": {\n"judge_address": "https://host/#secret"}}}',
])  # fmt: skip
def test_a_key_within_an_address_is_refused_and_not_shown(tmp_path, kinds):
    file = tmp_path / "run_settings.json"
    file.write_text(kinds)
    with pytest.raises(
        ImproperlyConfigured, match=r"line 2: \w*address must hold no key: put it into"
    ) as refused:
        read_run_settings(file)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(ImproperlyConfigured, match="allowed is a JSON file"):
        read_run_settings(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ImproperlyConfigured, match=r"bytes\.json, cannot be read: 'utf-8' codec"):
        read_run_settings(tmp_path / "bytes.json")


def test_nothing_starts_with_a_wrong_one(tmp_path, monkeypatch):
    (tmp_path / "run_settings.json").write_text('{"rounds": {}}')
    monkeypatch.setenv("RUN_SETTINGS", str(tmp_path / "run_settings.json"))
    words = [sys.executable, "-c", "import annotation_app.settings"]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=configured.BASE_DIR)
    assert ended.returncode != 0
    assert "line 1: the kind is 'rounds', allowed is" in ended.stderr


def test_what_a_caller_does_with_them_stays_with_the_caller(settings):
    settings.RUN_SETTINGS = {"sampling": {"comparisons": 7}}
    assert exchange.installed_settings("sampling").pop("comparisons") == 7
    assert exchange.installed_settings("sampling") == {"comparisons": 7}
    assert exchange.installed_settings("round") == {}
