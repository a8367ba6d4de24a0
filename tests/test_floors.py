"""Imports go one way, and the web side never loads torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "accelerate", "peft")


def loaded_by(*modules: str) -> set[str]:
    """The names in ``sys.modules`` after a fresh interpreter has imported these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "annotation_app.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, text=True, check=True, capture_output=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_every_contract_holds():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "modules",
    [
        ("annotation_app.wsgi", "annotation_app.urls"),  # web
        ("annotation_app.asgi", "annotation_app.live_urls"),  # live
        ("annotation_app.wsgi", "annotation_app.celery", "annotation_app.tasks"),  # workers
        ("annotation_app.processes.start", "annotation_app.processes.redis"),  # launcher
    ],
    ids=["web", "live", "worker", "launcher"],
)
def test_a_process_without_torch(modules):
    loaded = loaded_by(*modules)
    assert set(modules) <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_nothing_is_pickled():
    """A pickle runs what it holds: weights are safetensors, everything else is JSON."""
    packages = ("reward", "rlhf_loop", "annotation_app", "demo")
    sources = [file for name in packages for file in (ROOT / name).rglob("*.py")]
    assert len(sources) > 100
    for source in sources:
        found = re.findall(r"pickle|torch\.(?:save|load)\(|\.pt\b|marshal", source.read_text())
        assert not found, f"{source}: {found}"


def test_the_shared_words_load_the_standard_library_only():
    loaded = loaded_by("reward.preferences", "rlhf_loop.round")
    assert loaded.isdisjoint({*HEAVY, "django", "celery", "pandas", "numpy"})


def test_learning_code_loads_no_web():
    loaded = loaded_by("reward.train", "rlhf_loop.ppo")
    assert "torch" in loaded
    assert loaded.isdisjoint({"django", "celery", "annotation_app", "demo"})
