"""The border of scaling and judging: commands go out, progress comes in.

A judging is refused where its address is not the one that this installation names: a run that
waited or is asked for again calls nobody whom nobody configures any more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from annotation_app import storage
from annotation_app.models import Checkpoint, Run
from reward.run_folder import RunFolder
from reward.settings import to_flags


def scaling_command(run: Run) -> list[str]:
    snapshot = storage.path(run.input("snapshot").storage_key)
    flags = {
        "pairs": snapshot / "pairs.jsonl",
        "holdout": snapshot / "holdout.jsonl",
        "models": [storage.path(model.storage_key) for model in starts(run)],
        "criterion": run.criterion,
        "out": storage.path(run.storage_key),
        **run.config,
    }
    return [sys.executable, "-m", "reward.scaling", *to_flags(flags)]


def starts(run: Run) -> list[Checkpoint]:
    """The chat models that a scaling run trains from, in its order."""
    rows = run.inputs.filter(checkpoint__isnull=False).select_related("checkpoint").order_by("pk")
    return [row.checkpoint for row in rows if row.checkpoint is not None]


def judging_command(run: Run) -> list[str]:
    """Raises ValueError where the judge is not the one that is configured now."""
    configured = (settings.JUDGE_URL, settings.JUDGE_MODEL)
    if (run.config["address"], run.config["model"]) != configured:
        raise ValueError(
            f"{run.config['model']} at {run.config['address']} was to judge, but JUDGE_URL and "
            "JUDGE_MODEL do not name it now. Ask for a new judging."
        )
    flags = {
        "pairs": storage.path(run.input("snapshot").storage_key) / "holdout.jsonl",
        "criterion": run.criterion,
        "out": storage.path(run.storage_key),
        **run.config,
    }
    return [sys.executable, "-m", "reward.judge", *to_flags(flags)]


COMMANDS: dict[str, Callable[[Run], list[str]]] = {
    Run.Kind.REWARD_SCALING: scaling_command,
    Run.Kind.REWARD_JUDGING: judging_command,
}


def judgings(run: Run) -> list[Run]:
    """The chat models' judgings that stand in an evaluation, in its order."""
    rows = run.inputs.filter(other_run__isnull=False).select_related("other_run").order_by("pk")
    return [row.other_run for row in rows if row.other_run is not None]


def judge_name(judging: Run) -> str:
    """What figures call a judge: the last part of a path or of a hub's name."""
    return f"{str(judging.config['model']).rpartition('/')[2]} (judge)"


def told_apart(items: Sequence[Checkpoint | Run], names: Sequence[str]) -> list[str]:
    """Names of models as they are, each with its number where two are the same."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{name} ({item.pk})" for item, name in zip(items, names, strict=True)]


def progress(folder: RunFolder) -> tuple[dict[str, Any] | None, float]:
    """The newest figures of a run, and when it last showed a sign of life (POSIX time, 0.0: never):
    figures, or records such as a judge's answers.

    Of the trainings that a scaling run holds under ``runs/`` the one at work counts too.
    """
    figures, seen = folder.last_metrics(), _written(folder)
    inner = [RunFolder(path) for path in (folder.path / "runs").glob("*")]
    newest = max(inner, key=_written, default=None)
    if newest is None or _written(newest) < seen:
        return figures, seen
    training = newest.last_metrics()
    if figures is not None and training is not None:
        at = f"step {training['step']} of {training['total']}"
        figures = {**figures, "training_at_work": at}
    return figures, _written(newest)


def _written(folder: RunFolder) -> float:
    """When a line was last added to a file of the folder, or of a folder in it."""
    files = (file for pattern in ("*.jsonl", "*/*.jsonl") for file in folder.path.glob(pattern))
    return max(map(_changed, files), default=0.0)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
