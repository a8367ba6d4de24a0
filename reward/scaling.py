"""What more comparisons bring: ``python -m reward.scaling`` (Llama 2, figure 6).

A reward model is trained from each start model on the first batch, the first two, and so on, and
every one is measured on the same holdout. Each training is a run folder of its own under ``runs/``;
its weights are deleted when it has scored the holdout. Started again it goes on where it stopped.

The line through the points is that of ``reward.measures.scaling``, whose intervals know nothing of
what another seed would have given: give ``--seeds``.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from reward.command import command
from reward.config import ScalingConfig, TrainConfig
from reward.data import load_pairs
from reward.measures.accuracy import ScoredPair, of_criterion
from reward.measures.drift import batch_order
from reward.measures.resampling import Draws
from reward.measures.scaling import Point, measured
from reward.preferences import PreferencePair, write_pairs
from reward.run_folder import RunFolder
from reward.scores import SCORES, read_scores
from reward.settings import from_mapping
from reward.train import train

OWN = ("pairs", "holdout", "model", "out", "seed", "criterion")
"""What is given to each training by this command."""


class Part(NamedTuple):
    """The pairs that a point is trained on."""

    through: str
    pairs: list[PreferencePair]


def scaling(config: ScalingConfig) -> dict[str, Any]:
    """Train what is not trained yet, fit, and return the result.

    Raises ValueError for pairs or settings that cannot be trained on, RunFolderBusy when another
    process works in the folder.
    """
    _training(config, pairs=config.pairs, model=config.models[0], out=config.out)
    folder = RunFolder(config.out)
    return folder.once(config, lambda: _scaling(config, folder))


def _scaling(config: ScalingConfig, folder: RunFolder) -> dict[str, Any]:
    models = {f"model-{i}": path for i, path in enumerate(config.models, start=1)}
    folder.write_provenance({"pairs": config.pairs, "holdout": config.holdout, **models})
    parts = growing(load_pairs(config.pairs), config)
    holdout = load_pairs(config.holdout)
    total = len(config.models) * len(parts) * len(config.seeds)
    folder.rewind_metrics(0)
    folder.log_metrics(0, total)
    done, found = 0, []
    for number, model in enumerate(config.models, start=1):
        points = []
        for at, part in enumerate(parts, start=1):
            point = Point(part.through, 0, [])
            for seed in config.seeds:
                out = folder.path / "runs" / f"{number}-{at}-{seed}"
                pairs, scored = _train_one(config, model, part, holdout, seed, out)
                point = Point(part.through, pairs, [*point.scored, scored])
                done += 1
                folder.log_metrics(done, total, model=number, pairs=pairs)
            points.append(point)
        found.append(_of_model(config, model, points))
    return {
        "criterion": config.criterion,
        "count": found[0]["points"][0]["count"],
        "models": found,
    }


def growing(pairs: Sequence[PreferencePair], config: ScalingConfig) -> list[Part]:
    """The parts, each within the next: the criterion's batches in their order, each with what came
    before the one after it (the other criterion's batches, which the recipe mixes in); or shares of
    the dialogue roots in an order drawn from their hashes. Raises ValueError for fewer than two
    batches."""
    if config.shares:
        roots = sorted({p.root for p in pairs}, key=lambda r: hashlib.sha256(r.encode()).digest())
        parts = []
        for share in sorted(set(config.shares)):
            kept = set(roots[: max(1, round(share * len(roots)))])
            parts.append(Part(f"{share:.0%}", [pair for pair in pairs if pair.root in kept]))
        return parts
    order = batch_order([ScoredPair(pair, 0.0, 0.0) for pair in pairs], config.batches)
    judged = {pair.batch for pair in pairs if pair.criterion == config.criterion}
    own = [batch for batch in order if batch in judged]
    if len(own) < 2:
        raise ValueError(
            f"{config.pairs} has {len(own)} batches of {config.criterion}, allowed are two or "
            "more: use --shares"
        )
    ends = [order.index(after) for after in own[1:]] + [len(order)]
    return [
        Part(batch, [pair for pair in pairs if pair.batch in order[:end]])
        for batch, end in zip(own, ends, strict=True)
    ]


def _train_one(
    config: ScalingConfig,
    model: Path,
    part: Part,
    holdout: Sequence[PreferencePair],
    seed: int,
    out: Path,
) -> tuple[int, list[ScoredPair]]:
    """How many pairs were trained on, mixed-in ones included, and the scored holdout."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "pairs.jsonl"
    if not file.exists():
        write_pairs(file.with_suffix(".tmp"), part.pairs)
        file.with_suffix(".tmp").rename(file)
    result = train(_training(config, pairs=file, model=model, out=out, seed=seed))
    shutil.rmtree(RunFolder(out).model, ignore_errors=True)
    scored = of_criterion(read_scores(out / SCORES, holdout), config.criterion)
    return int(result["pairs"]), scored


def _training(config: ScalingConfig, **given: object) -> TrainConfig:
    """The settings of one training. Raises ValueError for further ones that cannot be set."""
    for name in config.training:
        if name in OWN:
            raise ValueError(f"training sets {name}, which is set for each point already")
    settled = {"holdout": config.holdout, "criterion": config.criterion, **given}
    return from_mapping(TrainConfig, {**config.training, **settled})


def _of_model(config: ScalingConfig, model: Path, points: Sequence[Point]) -> dict[str, Any]:
    figures = measured(points, config.next_pairs, Draws(config.resamples))
    return {"name": model.name, "path": str(model), "parameters": parameters(model), **figures}


def parameters(folder: Path) -> int:
    """How many numbers a model folder's safetensors hold."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
        total += sum(math.prod(shape) for shape in shapes)
    return total


def summary(result: dict[str, Any]) -> str:
    """The main figures as lines of text."""
    lines = [f"measured on {result['count']} held-out pairs"]
    for model in result["models"]:
        lines.append(f"{model['name']}, {model['parameters']:,} parameters")
        for point in model["points"]:
            if point["accuracy"] is not None:
                lines.append(
                    f"  through {point['through']}: {point['pairs']} pairs, "
                    f"accuracy {point['accuracy']:.3f} ({point['low']:.3f} to {point['high']:.3f})"
                )
        if model["fit"]:
            fit, following = model["fit"], model["next"]
            lines.append(
                f"  twice the pairs: {fit['per_doubling']:+.3f} "
                f"({fit['low']:+.3f} to {fit['high']:+.3f}); the next {following['pairs']}: "
                f"{following['gain']:+.4f} ({following['low']:+.4f} to {following['high']:+.4f})"
            )
    return "\n".join(lines)


main = command(ScalingConfig, "reward.scaling", lambda config: summary(scaling(config)))

if __name__ == "__main__":
    main()
