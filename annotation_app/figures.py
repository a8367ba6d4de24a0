"""Plotly figures as plain data; the page draws them, and shows the same numbers in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, cycle, pairwise
from typing import Any, NamedTuple

from annotation_app.tables import Figure

Reports = Sequence[tuple[str, Mapping[str, Any]]]  # a model's name and its accuracy report
MOST_POINTS = 400  # of a line: more than a screen can show
FEW_STEPS = 10  # that the axis names one by one


def _layout(title: str, **axes: Any) -> dict[str, Any]:
    is_named = "title" in axes.get("xaxis", {})
    return {
        "title": {"text": title},
        "margin": {"t": 84, "r": 16, "b": 64 if is_named else 48, "l": 56},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        **axes,
    }


def smoothed_lines(
    lines: Mapping[str, Sequence[tuple[int, float]]],
    title: str,
    window: Callable[[int], int] | None,
    yaxis: dict[str, Any],
    steps_are: str = "step",
) -> Figure:
    """Each logged figure over the steps: pale raw points, and the mean of the last ``window``.

    Without a window the points are joined as they are.
    """
    data: list[dict[str, Any]] = []
    for colour, (name, points) in enumerate(lines.items()):
        steps = [step for step, _ in points]
        values = [value for _, value in points]
        drawn = _drawn(points)
        shared = {"type": "scatter", "x": [steps[n] for n in drawn], "meta": {"colour": colour}}
        raw = {"mode": "markers", "marker": {"size": 4}, "opacity": 0.4, "showlegend": False}
        if window is not None:
            each = [values[n] for n in drawn]
            data.append({**shared, **raw, "name": f"{name}, each step", "y": each})
            values = _running_means(values, window(len(points)))
        mode = "lines" if len(drawn) > 1 else "markers"  # a line of one point is nothing to see
        data.append({**shared, "mode": mode, "name": name, "y": [values[n] for n in drawn]})
    axes = {"xaxis": _steps(lines.values(), steps_are), "yaxis": yaxis}
    return {"data": data, "layout": _layout(title, showlegend=len(lines) > 1, **axes)}


def _steps(lines: Iterable[Sequence[tuple[int, float]]], steps_are: str) -> dict[str, Any]:
    """The axis of the steps: no part of a step, however few there are."""
    last = max((step for points in lines for step, _ in points), default=0)
    few = {"dtick": 1} if last <= FEW_STEPS else {}
    return {"title": {"text": steps_are}, **few}


def _stride(points: Sequence[object]) -> int:
    return -(-len(points) // MOST_POINTS) or 1


def _running_means(values: Sequence[float], window: int) -> list[float]:
    sums = [0.0, *accumulate(values)]
    starts = [max(0, end - window) for end in range(1, len(sums))]
    return [(sums[end] - sums[start]) / (end - start) for end, start in enumerate(starts, start=1)]


def per_day(counts: Mapping[str, int], title: str) -> Figure:
    """A bar for each day."""
    bars = {"type": "bar", "x": list(counts), "y": list(counts.values())}
    count = {"range": [0, max([5, *counts.values()]) * 1.1], "tickformat": ",d"}
    return {"data": [bars], "layout": _layout(title, xaxis={"type": "category"}, yaxis=count)}


def natural(name: str) -> list[tuple[str, int]]:
    """Sorts week 2 before week 10."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", name)]


def accuracy_bars(reports: Reports, group: str, names: Sequence[str], title: str) -> Figure:
    """Bars with their intervals, by model; each place says how many comparisons it counts."""
    ticks = {name: _tick(name, [r.get(group, {}).get(name, {}) for _, r in reports])
             for name in names}  # fmt: skip
    data = []
    for model, report in reports:
        figures = report.get(group, {})
        known = [n for n in names if figures.get(n, {}).get("accuracy") is not None]
        data.append(
            {
                "type": "bar",
                "name": plain(model),
                "x": [ticks[n] for n in known],
                "y": [figures[n]["accuracy"] for n in known],
                "error_y": _interval([figures[n] for n in known], "accuracy"),
            }
        )
    axes = {"yaxis": {"range": [0, 1], "tickformat": ".0%"}, "xaxis": {"type": "category"}}
    return {"data": data, "layout": _layout(title, barmode="group", **axes)}


def _tick(name: str, found: Iterable[Mapping[str, Any]]) -> str:
    counts = [it["count"] for it in found if it.get("count")]
    low, high = min(counts, default=0), max(counts, default=0)
    many = f"{low}" if low == high else f"{low} to {high}"
    return f"{plain(name.replace('_', ' '))}<br>n = {many}"


def plain(text: str) -> str:
    """A text that Plotly takes for no markup of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _interval(found: Sequence[Mapping[str, Any]], value: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(it, value, "high") for it in found],
        "arrayminus": [_distance(it, value, "low") for it in found],
    }


def _distance(it: Mapping[str, Any], value: str, end: str) -> float:
    """From the value to one end of its interval; 0 where the interval is unknown."""
    return 0.0 if it.get(end) is None else abs(it[end] - it[value])


class Line(NamedTuple):
    """Points of one model, under its name; a fitted line is dashed."""

    name: str
    points: Sequence[Mapping[str, Any]]
    colour: int
    is_dashed: bool


def reliability(lines: Iterable[Line], title: str) -> Figure:
    """Observed against predicted shares, bin by bin, beside the diagonal of perfect calibration."""
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "perfect",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"dash": "dot", "width": 1},
            "meta": {"colour": 3},
        }
    ]
    for name, bins, colour, is_dashed in lines:
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(name),
                "x": [it["predicted"] for it in bins],
                "y": [it["observed"] for it in bins],
                "text": [f"n = {it['count']}" for it in bins],
                "line": {"dash": "dash" if is_dashed else "solid"},
                "meta": {"colour": colour},
            }
        )
    share = {"range": [0, 1], "tickformat": ".0%"}
    axes = {"xaxis": {**share, "title": {"text": "predicted"}},
            "yaxis": {**share, "title": {"text": "observed"}}}  # fmt: skip
    return {"data": data, "layout": _layout(title, **axes)}


def by_threshold(tables: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Figure:
    """Recall and precision over the threshold, a full and a dashed line for each model."""
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{plain(name)}, {value}",
            "x": [row["threshold"] for row in rows],
            "y": [row[value] for row in rows],
            "text": [f"n = {row['count']}" for row in rows],
            "line": {"dash": dash},
            "meta": {"colour": colour},
        }
        for colour, (name, rows) in enumerate(tables.items())
        for value, dash in (("recall", "solid"), ("precision", "dash"))
    ]
    share = {"range": [0, 1.02], "tickformat": ".0%"}
    xaxis = {"title": {"text": "flagged below"}, "range": [0, 1]}
    return {"data": data, "layout": _layout(title, xaxis=xaxis, yaxis=share)}


def histograms(found: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """How many chosen (full) and rejected (dashed) responses have which score."""
    data = []
    for colour, (name, it) in enumerate(found.items()):
        edges = it["edges"]
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        for side, dash in (("chosen", "solid"), ("rejected", "dash")):
            line = {"dash": dash, "shape": "hvh"}
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{plain(name)}, {side} (n = {sum(it[side])})",
                    "x": middles,
                    "y": it[side],
                    "line": line,
                    "meta": {"colour": colour},
                }
            )
    axes = {"xaxis": {"title": {"text": "score"}}, "yaxis": {"title": {"text": "responses"}}}
    return {"data": data, "layout": _layout(title, **axes)}


def over_batches(found: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Figure:
    """Accuracy batch by batch, a line for each model; an alarm is a large mark."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": plain(name),
            "x": [f"{plain(row['batch'])}<br>n = {row['count']}" for row in rows],
            "y": [row["accuracy"] for row in rows],
            "error_y": _interval(rows, "accuracy"),
            "marker": {
                "size": [14 if row["alarm"] else 7 for row in rows],
                "symbol": ["x" if row["alarm"] else "circle" for row in rows],
            },
        }
        for name, rows in found.items()
    ]
    axes = {"yaxis": {"range": [0, 1], "tickformat": ".0%"}, "xaxis": {"type": "category"}}
    return {"data": data, "layout": _layout(title, **axes)}


def differences(
    rows: Sequence[Mapping[str, Any]], title: str = "After minus before, paired 95 % interval"
) -> Figure:
    """One minus another on the same things, with the paired 95 % interval; 0 is no change."""
    known = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
    known = known[::-1]  # the first row stands on top
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [row["difference"] for row in known],
        "y": [row["name"] for row in known],
        "error_x": _interval(known, "difference"),
        "marker": {"size": 10},
    }
    axes = {"xaxis": {"zeroline": True, "zerolinewidth": 2}, "yaxis": {"automargin": True}}
    return {"data": [trace], "layout": _layout(title, **axes)}


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


def against_comparisons(models: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Accuracy over the number of comparisons, points with their intervals; where there is a line
    through them it is dashed and goes on to the next batch."""
    data: list[dict[str, Any]] = []
    for colour, model in enumerate(models):
        points = model["points"]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(model["name"]),
                "x": [point["pairs"] for point in points],
                "y": [point["accuracy"] for point in points],
                "error_y": _interval(points, "accuracy"),
                "text": [plain(point["through"]) for point in points],
                "marker": {"size": 8},
                "meta": {"colour": colour},
            }
        )
        if model["fit"]:
            data.append(_line_on(model, colour))
    ticks = _round_numbers([x for trace in data for x in trace["x"]])
    xaxis = {
        "type": "log",
        "title": {"text": "comparisons trained on"},
        "tickvals": ticks,
        "ticktext": [f"{tick:,}" for tick in ticks],
    }
    axes = {"xaxis": xaxis, "yaxis": {"tickformat": ".0%"}}
    return {"data": data, "layout": _layout(title, **axes)}


def _round_numbers(found: Sequence[int]) -> list[int]:
    """1, 2, 5, 10 … as far as these numbers go; the ends themselves where there are not two."""
    low, high = min(found), max(found)
    ticks = [first * 10**power for power in range(len(str(high))) for first in (1, 2, 5)]
    inside = [tick for tick in ticks if 0.8 * low <= tick <= 1.2 * high]
    return inside if len(inside) > 1 else sorted({low, high})


def _line_on(model: Mapping[str, Any], colour: int) -> dict[str, Any]:
    fit, sizes = model["fit"], [point["pairs"] for point in model["points"]]
    ends = [min(sizes), max(sizes), max(sizes) + model["next"]["pairs"]]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{plain(model['name'])}, line",
        "x": ends,
        "y": [fit["a"] + fit["b"] * math.log(size) for size in ends],
        "line": {"dash": "dash"},
        "meta": {"colour": colour},
    }


# --- rounds --------------------------------------------------------------------------------------

Points = Sequence[tuple[float, float]]


def joined(name: str, points: Points, colour: int) -> dict[str, Any]:
    """A trace of few points, each of them marked."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "marker": {"size": 6},
        "meta": {"colour": colour},
    }


def dashed(name: str, ends: Points, colour: int) -> dict[str, Any]:
    """A trace that marks a limit or a choice."""
    line = {"dash": "dash", "width": 1.5}
    return {**joined(name, ends, colour), "mode": "lines", "line": line}


def stacked_shares(
    lines: Mapping[str, Sequence[tuple[int, float]]], title: str, steps_are: str
) -> Figure:
    """Shares of a whole over the steps, one on top of the other."""
    data = [
        {
            **joined(name, [points[n] for n in _drawn(points)], colour),
            "mode": "lines",
            "stackgroup": "shares",
        }
        for colour, (name, points) in enumerate(lines.items())
    ]
    yaxis = {"range": [0, 1], "tickformat": ".0%"}
    axes = {"xaxis": _steps(lines.values(), steps_are), "yaxis": yaxis}
    return {"data": data, "layout": _layout(title, showlegend=True, **axes)}


def best_of(points: Points, selected: float | None, title: str) -> Figure:
    """The expected best score of N answers over N, beside the mean of what was selected."""
    data = [joined("best of N", points, 0)]
    if selected is not None and points:
        ends = [(points[0][0], selected), (points[-1][0], selected)]
        data.append(dashed("selected, earlier rounds included", ends, 2))
    ticks = [x for x, _ in points]
    xaxis = {"type": "log", "title": {"text": "answers to a prompt (N)"}, "tickvals": ticks,
             "ticktext": [f"{tick:g}" for tick in ticks]}  # fmt: skip
    yaxis = {"title": {"text": "mean score"}}
    return {"data": data, "layout": _layout(title, xaxis=xaxis, yaxis=yaxis)}


def sweep(
    curve: Sequence[Mapping[str, Any]], counts: Sequence[str], pick: float | None, title: str
) -> Figure:
    """max@N over the temperature; of the largest N with its intervals, and median@N dotted."""
    data: list[dict[str, Any]] = []
    for colour, count in zip(cycle((0, 1, 2, 3, 5)), counts, strict=False):
        is_largest = count == counts[-1]
        for what, dash in (("max", "solid"), ("median", "dot"))[: 1 + is_largest]:
            known = [row for row in curve if row.get(what, {}).get(count)]
            found = [row[what][count] for row in known]
            points = [
                (row["temperature"], it["mean"]) for row, it in zip(known, found, strict=True)
            ]
            trace = {**joined(f"{what}@{count}", points, colour), "line": {"dash": dash}}
            if is_largest:
                trace["error_y"] = _interval(found, "mean")
            data.append(trace)
    heights = [y for trace in data for y in trace["y"]]
    if pick is not None and heights:
        data.append(dashed("picked", [(pick, min(heights)), (pick, max(heights))], 4))
    axes = {"xaxis": {"title": {"text": "temperature"}}, "yaxis": {"title": {"text": "score"}}}
    return {"data": data, "layout": _layout(title, **axes)}


def by_turn(
    before: Points, after: Sequence[tuple[int, float, float | None, float | None]], title: str
) -> Figure:
    """Shares over the turns of a dialogue, old beside new; ``after`` with its intervals."""
    data = [joined("before", before, 0)] if before else []
    found = [{"share": share, "low": low, "high": high} for _, share, low, high in after]
    points = [(turn, share) for turn, share, *_ in after]
    data.append({**joined("after", points, 1), "error_y": _interval(found, "share")})
    xaxis = {"title": {"text": "turn"}, "tickvals": [turn for turn, _ in points]}
    yaxis = {"range": [0, 1.02], "tickformat": ".0%"}
    return {"data": data, "layout": _layout(title, showlegend=True, xaxis=xaxis, yaxis=yaxis)}


class Version(NamedTuple):
    """A chat version on the plane of helpfulness and safety: each (before, after), or a single
    value with its interval's ends."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    symbol: str = "circle"


def arrows(versions: Sequence[Version], title: str) -> Figure:
    """An arrow for each version, from what it was made of to what it is."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers+text",
            "name": plain(version.name),
            "x": list(version.x),
            "y": list(version.y),
            "text": ["", plain(version.name)],
            "textposition": "top left",
            "cliponaxis": False,
            "marker": {"symbol": ["circle", "arrow"], "angleref": "previous", "size": [6, 14]},
            "meta": {"colour": colour},
        }
        for colour, version in enumerate(versions)
    ]
    axes = {"xaxis": {"title": {"text": "helpfulness score, helpfulness prompts"}},
            "yaxis": {"title": {"text": "safety score, safety prompts"}}}  # fmt: skip
    return {"data": data, "layout": _layout(title, showlegend=False, **axes)}


def win_rates(versions: Sequence[Version], title: str) -> Figure:
    """A point for each version with both intervals, and the lines where nothing is won or lost."""
    ends = [end for version in versions for end in (*version.x, *version.y)]
    low, high = min([0.4, *ends]) - 0.05, max([0.6, *ends]) + 0.05
    halves = ([(0.5, low), (0.5, high)], [(low, 0.5), (high, 0.5)])
    data = [dashed("as the version before", half, 3) for half in halves] + [
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": plain(version.name),
            "x": [version.x[0]],
            "y": [version.y[0]],
            "error_x": _ends(version.x),
            "error_y": _ends(version.y),
            "text": [plain(version.name)],
            "textposition": "top left",
            "cliponaxis": False,
            "marker": {"symbol": version.symbol, "size": 11},
            "meta": {"colour": colour},
        }
        for colour, version in enumerate(versions)
    ]
    share = {"range": [low, high], "tickformat": ".0%"}
    axes = {"xaxis": {**share, "title": {"text": "helpfulness win rate"}},
            "yaxis": {**share, "title": {"text": "safety win rate"}}}  # fmt: skip
    return {"data": data, "layout": _layout(title, showlegend=False, **axes)}


def _ends(interval: Sequence[float]) -> dict[str, Any]:
    value, low, high = interval
    return _interval([{"value": value, "low": low, "high": high}], "value")


def _drawn(points: Sequence[object]) -> range:
    """Which of the points are drawn, the newest among them."""
    return range((len(points) - 1) % _stride(points), len(points), _stride(points))
