"""The curves of a run, as it goes: each logged figure by step, smoothed, with its raw points."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import fmean, median
from typing import Any, NamedTuple

from annotation_app.figures import smoothed_lines
from annotation_app.models import Run
from annotation_app.tables import Figure, is_number

Metrics = Sequence[Mapping[str, Any]]
Points = list[tuple[int, float]]
RECENT = 20  # steps that the pace is read from


class Curve(NamedTuple):
    """One plot: the figures of ``metrics.jsonl`` that it draws, each with its name on the page.

    Where ``only_with`` names a setting, it is drawn where that is on.
    """

    id: str
    title: str
    series: Mapping[str, str]
    axis: Mapping[str, Any] = {}
    is_noisy: bool = True
    only_with: str = ""


class Shown(NamedTuple):
    """A curve as the page draws it: name, newest value and recent mean of each line."""

    id: str
    title: str
    figure: Figure
    numbers: Sequence[tuple[str, float, float]]


class Pace(NamedTuple):
    pairs_per_second: float | None
    left: timedelta | None


CURVES: dict[str, tuple[Curve, ...]] = {
    Run.Kind.REWARD_TRAINING: (
        Curve(
            "loss",
            "Loss",
            {"ranking_loss": "ranking", "auxiliary_loss": "safety auxiliary"},
        ),
        Curve(
            "centring",
            "Centring penalty, before its weight",
            {"centring_loss": "centring"},
            only_with="centring",
        ),
        Curve(
            "accuracy",
            "Accuracy on the pairs of each step",
            {"accuracy": "accuracy"},
            {"range": [0, 1], "tickformat": ".0%"},
        ),
        Curve(
            "learning-rate",
            "Learning rate",
            {"learning_rate": "learning rate"},
            {"rangemode": "tozero", "exponentformat": "e"},
            is_noisy=False,
        ),
        Curve("gradient-norm", "Gradient norm before clipping", {"gradient_norm": "norm"}),
    ),
    Run.Kind.PPO: (
        Curve("score", "Combined score of the rollouts", {"objective/scores": "combined score"}),
    ),
}


def curves(kind: str, metrics: Metrics, config: Mapping[str, Any] | None = None) -> list[Shown]:
    """Every plot of this kind of run; lines that were never other than 0 are left out."""
    chosen = config or {}
    drawn = [c for c in CURVES.get(kind, ()) if not c.only_with or chosen.get(c.only_with)]
    return [_shown(curve, metrics) for curve in drawn]


def _shown(curve: Curve, metrics: Metrics) -> Shown:
    lines = {name: logged(metrics, key) for key, name in curve.series.items()}
    lines = {name: points for name, points in lines.items() if any(value for _, value in points)}
    numbers = [
        (name, points[-1][1], fmean(value for _, value in points[-window(len(points)) :]))
        for name, points in lines.items()
    ]
    over = window if curve.is_noisy else None
    figure = smoothed_lines(lines, curve.title, over, dict(curve.axis))
    return Shown(curve.id, curve.title, figure, numbers)


def logged(metrics: Metrics, name: str) -> Points:
    """Step and value of every line that has this figure."""
    return [(line["step"], value) for line in metrics if is_number(value := line.get(name))]


def window(points: int) -> int:
    """How many steps a smoothed point is the mean of: a twentieth of all, at least five."""
    return max(5, points // 20)


def pace(metrics: Metrics) -> Pace:
    """Pairs per second and the time left, from the median of the recent steps."""
    recent = [line for line in metrics[-RECENT - 1 :] if is_number(line.get("time"))]
    seconds = [after["time"] - before["time"] for before, after in itertools.pairwise(recent)]
    if not seconds or (each := median(seconds)) <= 0:
        return Pace(None, None)
    left = timedelta(seconds=round(each * max(0, recent[-1]["total"] - recent[-1]["step"])))
    pairs = [line["pairs"] for line in recent if isinstance(line.get("pairs"), int)]
    return Pace(median(pairs) / each if pairs else None, left)


def table(metrics: Metrics) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of everything that was logged."""
    header = list(dict.fromkeys(name for line in metrics for name in line))
    return header, [[line.get(name, "") for name in header] for line in metrics]
