"""The reward server of the tests: a real process, or a stand-in that says what a test tells it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annotation_app.models import Checkpoint, Promotion


@contextmanager
def reward_server(root: Path, key: str = "") -> Iterator[str]:
    """``python -m reward.serve``; its address."""
    command = [sys.executable, "-m", "reward.serve", "--root", str(root), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--device", "cpu"],
        env={**os.environ, "SCORER_API_KEY": key}, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield re.search(r"http://127.0.0.1:\d+", process.stdout.readline())[0]
    finally:
        process.terminate()
        process.wait(10)


def promoted(criterion: str, storage_key: str = "") -> Checkpoint:
    """A reward model in force, without a run."""
    checkpoint = Checkpoint.objects.create(
        kind=f"{criterion}_reward",
        name=f"{criterion.capitalize()} reward",
        line="tiny",
        storage_key=storage_key or f"checkpoints/{criterion}",
        sha256="",
    )
    Promotion.promote(checkpoint)
    return checkpoint
