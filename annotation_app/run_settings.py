"""The file that RUN_SETTINGS names: what an installation sets for its runs, by kind of run."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from reward.addresses import refuse_odd_address

KINDS = ("prompt_set", "reward_judging", "reward_training", "round", "sampling")
KEY_VARIABLES = {"address": "SAMPLER_API_KEY", "judge_address": "JUDGE_API_KEY"}
RunSettings = dict[str, dict[str, Any]]


def read_run_settings(file: Path) -> RunSettings:
    """A JSON object of objects. Raises ImproperlyConfigured with file, line and what is allowed."""
    if not file.is_file():
        raise ImproperlyConfigured(f"RUN_SETTINGS is {str(file)!r}, allowed is a JSON file")
    try:
        text = file.read_text()
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refusal(file, error.lineno, f"it is no JSON: {error.msg}", "JSON") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(f"RUN_SETTINGS, {file}, cannot be read: {error}") from None
    allowed = f"an object with an object for each kind of run: {', '.join(KINDS)}"
    if not isinstance(found, dict):
        raise _refusal(file, 1, f"it holds {text[:40]!r}", allowed)
    for kind, own in found.items():
        if kind not in KINDS:
            raise _refusal(file, _line(text, kind), f"the kind is {kind!r}", allowed)
        if not isinstance(own, dict):
            raise _refusal(file, _line(text, kind), f"{kind} is {own!r}", allowed)
    if "launcher" in found.get("round", {}):
        said = "round names a launcher"
        raise _refusal(file, _line(text, "launcher"), said, "the environment's TRAIN_LAUNCHER")
    threshold = found.get("round", {}).get("threshold", 0.5)
    is_number = isinstance(threshold, int | float)
    if not is_number or not 0 < threshold < 1:
        said = f"the threshold of round is {threshold!r}"
        raise _refusal(file, _line(text, "threshold"), said, "a number between 0 and 1")
    stages = (own for own in found.get("round", {}).values() if isinstance(own, dict))
    for own, (name, key) in product([found.get("sampling", {}), *stages], KEY_VARIABLES.items()):
        if isinstance(own.get(name), str):
            try:
                refuse_odd_address(name, own[name], key)
            except ValueError as error:
                where = f"RUN_SETTINGS, {file}, line {_line(text, name)}"
                raise ImproperlyConfigured(f"{where}: {error}") from None
    return found


def _line(text: str, name: str) -> int:
    """Where a name stands for the first time."""
    return text[: text.find(json.dumps(name))].count("\n") + 1


def _refusal(file: Path, line: int, said: str, allowed: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"RUN_SETTINGS, {file}, line {line}: {said}, allowed is {allowed}")
