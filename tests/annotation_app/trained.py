"""Reward models as their runs leave them, without training: rows, folders, held-out scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from annotation_app import exchange, storage
from annotation_app.lifecycle import training
from annotation_app.models import Checkpoint, Run, Snapshot
from reward.compare import Contender, compared
from reward.config import CompareConfig
from reward.measures.accuracy import ScoredPair
from reward.measures.report import Wanted, full_report
from reward.preferences import (
    PreferencePair,
    Verdict,
    read_pairs,
    write_pairs,
)
from reward.run_folder import write_json
from reward.scores import write_scores
from tests.annotation_app.rows import released_chat_model
from tests.reward.pairs import pairs

COUNT = 60
VERDICTS = (
    Verdict("one", "a", "better"),
    Verdict("two", "a", "slightly_better"),
    Verdict("3", "b"),
)


def held_out(criterion: str = "helpfulness", count: int = COUNT) -> list[PreferencePair]:
    """Pairs of two batches, every third of them judged by three."""
    found = pairs(count, criterion)
    return [replace(p, verdicts=VERDICTS if n % 3 == 0 else ()) for n, p in enumerate(found)]


def frozen(criterion: str, held: Sequence[PreferencePair]) -> Snapshot:
    """A snapshot with these pairs held out, and ten to train on."""
    key = f"snapshots/{Snapshot.objects.count() + 1}"
    folder = storage.path(key)
    folder.mkdir(parents=True)
    write_pairs(folder / "pairs.jsonl", pairs(10, criterion, first=1_000))
    write_pairs(folder / "holdout.jsonl", held)
    counts = {"pairs": 10, "holdout": len(held), f"{criterion}_holdout": len(held)}
    return Snapshot.objects.create(criterion=criterion, storage_key=key, sha256="", counts=counts)


def scored(held: Sequence[PreferencePair], seed: int = 0) -> list[ScoredPair]:
    """Scores that are right about three times of four."""
    draw = random.Random(seed)
    return [ScoredPair(pair, draw.gauss(0.7, 1), draw.gauss(-0.3, 1)) for pair in held]


def right(held: Sequence[PreferencePair], share: float) -> list[ScoredPair]:
    """Scores that are right about this share of the pairs."""
    known = round(share * len(held))
    return [ScoredPair(pair, float(n < known), 0.5) for n, pair in enumerate(held)]


def log_steps(run: Run, last: int, total: int = 30) -> None:
    """What the trainer appends at each step."""
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True, exist_ok=True)
    for step in range(len(folder.metrics()) + 1, last + 1):
        figures = {"loss": 1 / step, "ranking_loss": 1 / step, "auxiliary_loss": 0.0}
        more = {"accuracy": 0.5 + step / 100, "learning_rate": 1e-5, "gradient_norm": 2.0 / step}
        folder.log_metrics(step, total, **figures, **more, pairs=16)


def trained(
    criterion: str = "helpfulness",
    held: Sequence[PreferencePair] | None = None,
    count: int = 10,
    line: str = "tiny",
    **config,
) -> Checkpoint:
    """A reward model with its finished run on so many pairs, its figures and its scores."""
    held = held_out(criterion) if held is None else held
    start = Checkpoint.objects.chat().first() or released_chat_model().checkpoint
    snapshot = frozen(criterion, held)
    inputs = {"start": start, "snapshot": snapshot}
    run = Run.queue(Run.Kind.REWARD_TRAINING, config, inputs, criterion=criterion)
    run.claim()
    run.succeed()
    folder = exchange.run_folder(run)
    log_steps(run, 30)
    found = scored(held, seed=Checkpoint.objects.rewards().count())
    write_scores(folder.path / "scores.jsonl", found)
    composition = {"collected, helpfulness": 8, "hh-rlhf, helpfulness": 2}
    result = {"model": "model", "pairs": count, "steps": 30, "composition": composition}
    figures = full_report(found, Wanted(criterion))
    folder.write_result({**result, "holdout": figures, "over_long": 1, "cut": 0})
    versions = {"python": "3.12", "torch": "2.13"}
    provenance = {"inputs": {"pairs": "ab" * 32}, "versions": versions, "commit": "c0ffee"}
    write_json(folder.provenance_file, {**provenance, "machine": "Linux x86_64"})
    return Checkpoint.objects.create(
        kind=f"{criterion}_reward",
        name=f"{criterion.capitalize()} reward #{run.pk}",
        line=line,
        storage_key=f"{run.storage_key}/model",
        sha256="ab" * 32,
        metrics=figures,
        run=run,
    )


def evaluated(
    checkpoints: Sequence[Checkpoint], criterion: str = "helpfulness", rights: Sequence[float] = ()
) -> Run:
    """A finished comparison of reward models on the newest holdout, without scoring anew; each is
    right about this share of it, where shares are given."""
    run = training.queue_reward_evaluation(criterion, checkpoints)
    run.claim()
    run.succeed()
    pairs_file = storage.path(run.input("snapshot").storage_key) / "holdout.jsonl"
    held = list(read_pairs(pairs_file))
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True)
    config = CompareConfig(pairs=pairs_file, out=folder.path, criterion=criterion, resamples=100)
    contenders = [Contender(c.name, Path(c.storage_key), is_judge=False) for c in checkpoints]
    found = [right(held, share) for share in rights] or [scored(held, c.pk) for c in checkpoints]
    for number, scores in enumerate(found, start=1):
        write_scores(folder.path / f"scores-{number}.jsonl", scores)
    folder.write_result(compared(config, contenders, held, found))
    return run
