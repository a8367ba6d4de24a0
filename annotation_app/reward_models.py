"""What stands behind a reward model: its run, the data, and the pairs it was wrong about."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from annotation_app import exchange, storage
from annotation_app.models import Checkpoint, Run, Snapshot
from reward.measures.accuracy import ScoredPair
from reward.preferences import PreferencePair, aggregate, read_pairs
from reward.run_folder import RunFolder
from reward.scores import SCORES, mistakes, read_scores

MOST_MISTAKES = 100


class Origin(NamedTuple):
    """Where a reward model's weights come from; each None where it was brought in."""

    run: Run | None = None
    start: Checkpoint | None = None
    snapshot: Snapshot | None = None
    result: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None


class Mistake(NamedTuple):
    """A held-out pair whose rejected response scores higher, and what its annotators said."""

    pair: PreferencePair
    chosen: float
    rejected: float
    comparison: int | None
    verdicts: str

    @property
    def by(self) -> float:
        return self.rejected - self.chosen


def origin(checkpoint: Checkpoint) -> Origin:
    run = checkpoint.run
    if run is None:
        return Origin()
    inputs = {row.role: row.item for row in run.inputs.select_related("checkpoint", "snapshot")}
    start, snapshot = inputs.get("start"), inputs.get("snapshot")
    folder = exchange.run_folder(run)
    return Origin(
        run,
        start if isinstance(start, Checkpoint) else None,
        snapshot if isinstance(snapshot, Snapshot) else None,
        folder.result(),
        _provenance(folder),
    )


def _provenance(folder: RunFolder) -> dict[str, Any] | None:
    if not folder.provenance_file.is_file():
        return None
    found: dict[str, Any] = json.loads(folder.provenance_file.read_text(encoding="utf-8"))
    return found


def why_no_mistakes(checkpoint: Checkpoint) -> str:
    """Why there is nothing to read; empty where there is."""
    if checkpoint.run is None:
        return "It was brought in: no held-out comparison was scored with it here."
    if not (exchange.run_folder(checkpoint.run).path / SCORES).is_file():
        return "Its run has left no scores of held-out comparisons; train it again to see them."
    return ""


def worst_mistakes(checkpoint: Checkpoint, strength: str = "") -> list[Mistake]:
    """The held-out pairs of its criterion that it is most confidently wrong about."""
    if why_no_mistakes(checkpoint):
        return []
    assert checkpoint.run is not None, checkpoint.pk
    snapshot = storage.path(checkpoint.run.input("snapshot").storage_key)
    scores = exchange.run_folder(checkpoint.run).path / SCORES
    holdout = snapshot / "holdout.jsonl"
    return [_mistake(it) for it in _worst(scores, holdout, checkpoint.criterion, strength)]


@lru_cache(maxsize=32)  # neither file is ever written again, and large ones take seconds
def _worst(scores: Path, holdout: Path, criterion: str, strength: str) -> list[ScoredPair]:
    own = [
        pair
        for pair in read_pairs(holdout)
        if pair.criterion == criterion
        and (not strength or (pair.strength or "unknown") == strength)
    ]
    return mistakes(read_scores(scores, own), MOST_MISTAKES)


def _mistake(item: ScoredPair) -> Mistake:
    prefix, _, number = item.pair.id.partition("-")
    comparison = int(number) if prefix == "comparison" and number.isdecimal() else None
    verdicts = _in_words(item.pair)
    return Mistake(item.pair, item.chosen, item.rejected, comparison, verdicts)


def _in_words(pair: PreferencePair) -> str:
    """2 preferred the chosen response (better, slightly better), 1 the rejected one (better)."""
    if not pair.verdicts:
        return "no single judgement is known"
    chosen = aggregate(pair.verdicts).choice
    said: dict[str, list[str]] = {}
    for verdict in pair.verdicts:
        how = (verdict.strength or "").replace("_", " ")
        said.setdefault(_side(verdict.choice, chosen), []).append(how)
    return ", ".join(
        f"{len(hows)} {words}" + (f" ({', '.join(filter(None, hows))})" if any(hows) else "")
        for words, hows in said.items()
    )


def _side(choice: str, chosen: str | None) -> str:
    if choice == "tie":
        return "saw a tie"
    return "preferred the chosen response" if choice == chosen else "preferred the rejected one"
