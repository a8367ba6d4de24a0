"""Plotly figures as plain data; the page draws them, and shows the same numbers in a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from annotation_app.models import Checkpoint, Strength

Figure = dict[str, Any]


def _layout(title: str, **axes: Any) -> dict[str, Any]:
    return {
        "title": {"text": title},
        "margin": {"t": 84, "r": 16, "b": 48, "l": 56},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        **axes,
    }


def loss_curve(metrics: Sequence[Mapping[str, Any]], name: str, title: str) -> Figure:
    """One logged figure over the steps of a run."""
    points = [line for line in metrics if isinstance(line.get(name), int | float)]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": [line["step"] for line in points],
                "y": [line[name] for line in points],
            }
        ],
        "layout": _layout(title, xaxis={"title": {"text": "step"}}),
    }


def per_day(counts: Mapping[str, int], title: str) -> Figure:
    """A bar for each day."""
    bars = {"type": "bar", "x": list(counts), "y": list(counts.values())}
    count = {"range": [0, max([5, *counts.values()]) * 1.1], "tickformat": ",d"}
    return {"data": [bars], "layout": _layout(title, xaxis={"type": "category"}, yaxis=count)}


def accuracy_by_strength(checkpoints: Iterable[Checkpoint]) -> Figure:
    """Held-out accuracy of each model, one group of bars for each strength."""
    names = [strength.value for strength in Strength] + ["unknown"]
    return _accuracy_bars(
        checkpoints, "by_strength", names, "Held-out accuracy by preference strength"
    )


def accuracy_by_batch(checkpoints: Sequence[Checkpoint]) -> Figure:
    """Held-out accuracy of each model on each batch."""
    found = {name for c in checkpoints for name in c.metrics.get("by_batch", {})}
    names = sorted(found, key=_natural)
    return _accuracy_bars(checkpoints, "by_batch", names, "Held-out accuracy by batch")


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts week 2 before week 10."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", name)]


def _accuracy_bars(
    checkpoints: Iterable[Checkpoint], group: str, names: Sequence[str], title: str
) -> Figure:
    data = []
    for checkpoint in checkpoints:
        figures = checkpoint.metrics.get(group, {})
        known = [n for n in names if figures.get(n, {}).get("accuracy") is not None]
        data.append(
            {
                "type": "bar",
                "name": checkpoint.name,
                "x": [n.replace("_", " ") for n in known],
                "y": [figures[n]["accuracy"] for n in known],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [_distance(figures[n], "high") for n in known],
                    "arrayminus": [_distance(figures[n], "low") for n in known],
                },
            }
        )
    axis = {"range": [0, 1], "tickformat": ".0%"}
    return {"data": data, "layout": _layout(title, yaxis=axis, barmode="group")}


def _distance(it: Mapping[str, Any], end: str) -> float:
    """From the accuracy to one end of its interval; 0 where the interval is unknown."""
    return 0.0 if it.get(end) is None else abs(it[end] - it["accuracy"])


def differences(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """After minus before on the same prompts, with the paired 95 % interval; 0 is no change."""
    known = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
    known = known[::-1]  # the first row stands on top
    interval = {
        "type": "data",
        "symmetric": False,
        "array": [row["high"] - row["difference"] for row in known],
        "arrayminus": [row["difference"] - row["low"] for row in known],
    }
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [row["difference"] for row in known],
        "y": [row["name"] for row in known],
        "error_x": interval,
        "marker": {"size": 10},
    }
    axes = {"xaxis": {"zeroline": True, "zerolinewidth": 2}, "yaxis": {"automargin": True}}
    return {"data": [trace], "layout": _layout("After minus before, paired 95 % interval", **axes)}


def before_and_after(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean scores of the old and the new chat model, by reward model."""
    names = [row["name"].replace(", ", ",<br>") for row in rows]
    return {
        "data": [
            {"type": "bar", "name": label, "x": names, "y": [row[key] for row in rows]}
            for key, label in (("before", "before"), ("after", "after"))
        ],
        "layout": _layout("Mean score on the test prompts", barmode="group"),
    }
