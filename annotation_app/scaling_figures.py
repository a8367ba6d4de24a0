"""What more comparisons bring (Llama 2, figure 6): points, the line through them, as tables.

The points come from the reward models that there are, as an evaluation has scored them on one
holdout, or from a run of ``reward.scaling``. Both have the form of that run's result, and the line
is in both cases that of ``reward.measures.scaling``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from django.db.models import Count, Max, Q

from annotation_app import exchange, figures, measuring, storage
from annotation_app.models import Batch, Run, RunInput
from annotation_app.reward_figures import ACCURACY, pruned
from annotation_app.tables import Column, Table
from reward.measures.accuracy import ScoredPair
from reward.measures.resampling import Draws
from reward.measures.scaling import Point, measured
from reward.preferences import read_pairs
from reward.scores import read_scores

NEWEST = 20  # evaluations that one is taken from
FEWEST = 3  # different sizes that a line is fitted to
HELD_OUT = Column("Held-out comparisons", "count")
GAIN = (Column("Gain", "share"), Column("Low", "share"), Column("High", "share"))

# --- from the reward models that there are -------------------------------------------------------


class Trained(NamedTuple):
    """A reward model that an evaluation scored: what it was trained on, and its scores."""

    name: str
    line: str
    pairs: int
    through: str
    scores: Path


def evaluations(criterion: str) -> list[Run]:
    """The newest evaluations, those with the most reward models of different data first."""
    newest = list(Run.objects.evaluations(criterion)[:NEWEST])
    sizes: dict[int, int] = dict(
        RunInput.objects.filter(run__in=newest, checkpoint__kind=f"{criterion}_reward")
        .filter(checkpoint__run__inputs__role="snapshot")
        .values_list("run")
        .annotate(Count("checkpoint__run__inputs__snapshot", distinct=True))
    )
    return sorted(newest, key=lambda run: -sizes.get(run.pk, 0))


def trained(evaluation: Run) -> list[Trained]:
    """Those of its reward models whose data is known here, in the order of their sizes."""
    folder = exchange.run_folder(evaluation).path
    models = list(enumerate(exchange.evaluated_models(evaluation), start=1))
    own = [(number, it) for number, it in models if it.run and it.criterion == evaluation.criterion]
    through = _newest_batches([it.run for _, it in own if it.run is not None])
    found = [
        Trained(it.name, it.line, int(result["pairs"]), through.get(it.run.pk, ""),
                folder / f"scores-{n}.jsonl")
        for n, it in own
        if it.run and (result := exchange.run_folder(it.run).result()) and "pairs" in result
    ]  # fmt: skip
    return sorted((it for it in found if it.scores.is_file()), key=lambda it: it.pairs)


def _newest_batches(runs: Sequence[Run]) -> dict[int, str]:
    """Of each training run the newest batch of its criterion that it read."""
    criterion = runs[0].criterion if runs else ""
    of_it = Q(snapshot__annotations__comparison__criterion=criterion)
    rows = RunInput.objects.filter(run__in=runs, role="snapshot").values_list("run")
    batch = Max("snapshot__annotations__comparison__batch", filter=of_it)
    newest = dict(rows.annotate(newest=batch))
    names = {batch.pk: batch.name for batch in Batch.objects.filter(pk__in=newest.values())}
    return {run: names[batch] for run, batch in newest.items() if batch is not None}


def of_reward_models(evaluation: Run, next_pairs: int = 0) -> dict[str, Any]:
    """An evaluation's reward models as the result of a scaling run: a line for each family and size
    of model, all points on the same held-out comparisons."""
    holdout = storage.path(evaluation.input("snapshot").storage_key) / "holdout.jsonl"
    return _drawn(holdout, evaluation.criterion, tuple(trained(evaluation)), next_pairs)


@lru_cache(maxsize=16)  # none of the files is ever written again, and large ones take seconds
def _drawn(
    holdout: Path, criterion: str, models: tuple[Trained, ...], next_pairs: int
) -> dict[str, Any]:
    scored = _on_the_same(holdout, criterion, [it.scores for it in models]) if models else []
    by_line: dict[str, list[tuple[Trained, list[ScoredPair]]]] = {}
    for it, scores in zip(models, scored, strict=True):
        by_line.setdefault(it.line, []).append((it, scores))
    return {
        "criterion": criterion,
        "count": len(scored[0]) if scored else 0,
        "models": [_line(line, found, next_pairs) for line, found in by_line.items()],
    }


def _on_the_same(holdout: Path, criterion: str, files: Sequence[Path]) -> list[list[ScoredPair]]:
    """The scores of the pairs that all of the files hold."""
    own = [pair for pair in read_pairs(holdout) if pair.criterion == criterion]
    scored = [read_scores(file, own) for file in files]
    common = set.intersection(*({item.pair.id for item in some} for some in scored))
    return [[item for item in some if item.pair.id in common] for some in scored]


def _line(
    name: str, found: Sequence[tuple[Trained, list[ScoredPair]]], next_pairs: int
) -> dict[str, Any]:
    points = [Point(it.through, it.pairs, [scores]) for it, scores in found]
    figures = measured(points, next_pairs, Draws())
    for point, (it, _) in zip(figures["points"], found, strict=True):
        point["model"] = it.name
    return {"name": name, "parameters": None, **figures}


# --- from a run of its own -----------------------------------------------------------------------


def of_run(run: Run) -> dict[str, Any] | None:
    """The result of a scaling run, its chat models by their names; None while there is none."""
    result = exchange.run_folder(run).result() if run.state == Run.State.SUCCEEDED else None
    if result is None:
        return None
    starts = measuring.starts(run)
    names = measuring.told_apart(starts, [start.name for start in starts])
    models = zip(result["models"], names, strict=True)
    return {**result, "models": [{**model, "name": name} for model, name in models]}


# --- as tables -----------------------------------------------------------------------------------


def scaling_tables(result: Mapping[str, Any]) -> list[Table]:
    models = [model for model in result["models"] if model["points"]]
    if not models or not result["count"]:
        return []
    found = [_points(models, result["count"]), *_lines(models, result["count"])]
    return [pruned(table, len(models)) for table in found]


def _points(models: Sequence[Mapping[str, Any]], count: int) -> Table:
    rows = [
        (model["name"], model["parameters"], point.get("model"), point["through"] or None,
         point["pairs"], point["accuracy"], point["low"], point["high"],
         *_seeds(point["by_seed"]), point["count"])
        for model in models
        for point in model["points"]
    ]  # fmt: skip
    seeds = (Column("Lowest seed", "share"), Column("Highest seed", "share"))
    columns = [Column("Model"), Column("Parameters", "count"), Column("Reward model"),
               Column("Trained through"), Column("Trained on", "count"), *ACCURACY, *seeds,
               HELD_OUT]  # fmt: skip
    title = "Accuracy against the number of comparisons"
    note = (
        "Low and high: the 95 % interval. Trained on: comparisons, those mixed in from the other "
        "criterion and from imports too."
    )
    figure = figures.against_comparisons(models, title)
    return Table("scaling", title, columns, rows, figure, note, [count], "held-out comparisons")


def _seeds(found: Sequence[float]) -> tuple[float | None, float | None]:
    return (min(found), max(found)) if len(found) > 1 else (None, None)


def _lines(models: Sequence[Mapping[str, Any]], count: int) -> Iterator[Table]:
    rows = [
        (model["name"], fit["count"], what, more, it["gain"], it["low"], it["high"],
         fit["r_squared"])
        for model in models
        if (fit := model["fit"])
        for what, more, it in (
            ("twice as many", None, {**fit, "gain": fit["per_doubling"]}),
            ("the next batch", model["next"]["pairs"], model["next"]),
        )
    ]  # fmt: skip
    columns = [Column("Model"), Column("Points", "count"), Column("More comparisons"),
               Column("How many", "count"), *GAIN, Column("R²")]  # fmt: skip
    note = (
        "By the line accuracy = a + b · ln(comparisons); its 95 % interval draws the held-out "
        "dialogues, and knows nothing of what another seed would have given."
    )
    if rows:
        yield Table("scaling-line", "What more comparisons should bring", columns, rows, None, note,
                    [count], "held-out comparisons")  # fmt: skip


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the next batch should bring, model by model; or why that cannot be said."""
    return [_sentence(model) for model in result["models"]]


def _sentence(model: Mapping[str, Any]) -> str:
    following, sizes = model["next"], len({point["pairs"] for point in model["points"]})
    if following is None:
        return (
            f"{model['name']}: no line, since that takes {FEWEST} different numbers of comparisons "
            f"and there {'is' if sizes == 1 else 'are'} {sizes}."
        )
    said = (
        f"{model['name']}: the next {following['pairs']:,} comparisons should bring "
        f"{100 * following['gain']:+.1f} points of accuracy "
        f"({100 * following['low']:+.1f} to {100 * following['high']:+.1f})."
    )
    unsure = following["low"] <= 0 <= following["high"]
    return f"{said} That may be nothing: the interval holds 0." if unsure else said
