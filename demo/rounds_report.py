"""What several seeds' rounds came to: ``python -m demo.rounds_report FOLDER … --plot a.html``.

Versions are judged by gold scores that no model sees: helpfulness over the prompts that deserve an
answer, safety over the unsafe ones, refusals of borderline prompts. Beside them stands the proxy,
what the round's own reward models say of the same version: where it promises a rise and the gold
scores fall, the round has over-optimised.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from scipy import stats

from reward.measures.resampling import holm
from reward.preferences import read_json_lines

AXES = ("helpfulness", "safety")
COLOURS = qualitative.D3


class Version(NamedTuple):
    """One chat model and the gold scores of its answers, in the order of the prompts' ids."""

    name: str
    helpfulness: list[float]  # of the prompts that deserve an answer
    safety: list[float]  # of the unsafe ones
    refused: list[float]  # 1 for a refused borderline prompt
    proxy: dict[
        str, dict[str, float]
    ]  # by axis, raw scores: "after", "difference" to the old model

    def mean(self, axis: str) -> float:
        values: list[float] = getattr(self, axis)
        return statistics.fmean(values)


def read_versions(folder: Path) -> tuple[list[Version], list[Version]]:
    """The start and every finished round; and each round's model before PPO."""
    versions = [read_version("start", folder / "start", None)]
    before_ppo = []
    for number in range(1, 1_000):
        done = folder / f"round-{number}"
        if not (done / "done.json").exists():
            break
        result = done / "loop" / "evaluate" / "result.json"
        versions.append(read_version(f"V{number}", done / "gold", result))
        if (done / "gold-rejection").exists():
            name = f"V{number}, no PPO"
            before_ppo.append(read_version(name, done / "gold-rejection", None))
        else:
            before_ppo.append(versions[-1])
    return versions, before_ppo


def read_version(name: str, gold: Path, evaluation: Path | None) -> Version:
    """Gold scores and, where there is an evaluation, the proxy."""
    records = [record for _, record in read_json_lines(gold / "gold.jsonl")]
    unsafe = [record for record in records if record["kind"] == "unsafe"]
    benign = [record for record in records if record["kind"] != "unsafe"]
    proxy = {}
    if evaluation is not None:
        found = json.loads(evaluation.read_text(encoding="utf-8"))
        proxy = {
            axis: {name: found[f"{axis}_prompts"][axis][name] for name in ("after", "difference")}
            for axis in AXES
        }
    return Version(
        name,
        [record["helpfulness"] for record in benign],
        [record["safety"] for record in unsafe],
        [float(record["refused"]) for record in benign if record["kind"] == "borderline"],
        proxy,
    )


def slope(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Least-squares slope of the mean score over version numbers 0, 1, … with two 95 % intervals.

    ``scores`` holds each version's scores of the same prompts. ``low`` to ``high`` is of a straight
    line through the means (Student's t, versions - 2 degrees of freedom): wide also where the means
    rise on a curve. ``prompts_low`` to ``prompts_high`` is of the mean of the prompts' own slopes:
    what other prompts might have given.
    """
    means = [statistics.fmean(of_version) for of_version in scores]
    fitted = stats.linregress(range(len(means)), means)
    half = float(stats.t.ppf(0.975, len(means) - 2) * fitted.stderr)
    places = [number - (len(means) - 1) / 2 for number in range(len(means))]
    spread = sum(place * place for place in places)
    own = [
        sum(place * score for place, score in zip(places, of_prompt, strict=True)) / spread
        for of_prompt in zip(*scores, strict=True)
    ]
    by_prompt = stats.t.ppf(0.975, len(own) - 1) * statistics.stdev(own) / math.sqrt(len(own))
    return {
        "slope": float(fitted.slope),
        "low": float(fitted.slope) - half,
        "high": float(fitted.slope) + half,
        "prompts_low": float(fitted.slope - by_prompt),
        "prompts_high": float(fitted.slope + by_prompt),
    }


def over_seeds(figures: Sequence[float]) -> dict[str, float]:
    """Mean of a figure of at least two seeds with its 95 % interval (Student's t, seeds - 1 degrees
    of freedom): what another whole experiment might have given."""
    mean = statistics.fmean(figures)
    error = statistics.stdev(figures) / math.sqrt(len(figures))
    half = float(stats.t.ppf(0.975, len(figures) - 1)) * error
    return {"mean": mean, "low": mean - half, "high": mean + half}


def change(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Paired difference of means, its normal 95 % interval, and the p value of a fall."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = stats.norm.ppf(0.975) * error
    p = float(stats.norm.cdf(mean / error)) if error else 0.5
    return {"change": mean, "low": mean - half, "high": mean + half, "p_of_a_fall": p}


def report(folders: Sequence[Path]) -> dict[str, Any]:
    """Everything the goals ask of the rounds, by seed."""
    seeds: dict[str, Any] = {}
    looks: list[dict[str, Any]] = []
    for folder in folders:
        versions, before_ppo = read_versions(folder)
        found: dict[str, Any] = {"versions": [_row(version) for version in versions]}
        for axis in AXES:
            means = [version.mean(axis) for version in versions]
            steps = [
                {"version": new.name, **change(getattr(old, axis), getattr(new, axis))}
                for old, new in pairwise(versions)
            ]
            looks += steps
            found[axis] = {
                "start": means[0],
                "end": means[-1],
                "share_of_the_way": (means[-1] - means[0]) / (1.0 - means[0]),
                **(slope([getattr(v, axis) for v in versions]) if len(means) > 2 else {}),
                "steps": steps,
                "ppo_adds": statistics.fmean(
                    new.mean(axis) - old.mean(axis)
                    for old, new in zip(before_ppo, versions[1:], strict=True)
                ),
            }
        found["false_refusals"] = change(versions[0].refused, versions[-1].refused)
        seeds[folder.name] = found
    for look, p in zip(looks, holm([look["p_of_a_fall"] for look in looks]), strict=True):
        look["corrected_p"] = p
    together = {
        axis: {
            figure: over_seeds(of_seeds)
            for figure in ("slope", "ppo_adds")
            if len(of_seeds := [s[axis][figure] for s in seeds.values() if figure in s[axis]]) > 1
        }
        for axis in AXES
    }
    return {"seeds": seeds, "over_seeds": together, "looks": len(looks)}


def _row(version: Version) -> dict[str, Any]:
    figures = {axis: version.mean(axis) for axis in (*AXES, "refused")}
    return {"name": version.name, **figures, "proxy": version.proxy}


def table(found: dict[str, Any]) -> str:
    """The report for reading."""
    lines = []
    for name, seed in found["seeds"].items():
        lines.append(
            f"{name}\n  version  helpfulness  safety  false refusals   proxies, raw (promised)"
        )
        for row in seed["versions"]:
            both = [row["proxy"][axis] for axis in AXES if row["proxy"]]
            proxy = "  ".join(f"{it['after']:6.2f} ({it['difference']:+.2f})" for it in both)
            lines.append(
                f"  {row['name']:8}{row['helpfulness']:12.3f}{row['safety']:8.3f}"
                f"{row['refused']:16.1%}   {proxy}"
            )
        for axis in AXES:
            part = seed[axis]
            falls = [
                f"{s['version']} {s['change']:+.3f}"
                for s in part["steps"]
                if s["corrected_p"] < 0.05
            ]
            rise = "no slope of two versions"
            if "slope" in part:
                rise = (
                    f"slope {part['slope']:+.4f} (of a line {part['low']:+.4f} to "
                    f"{part['high']:+.4f}, over prompts {part['prompts_low']:+.4f} to "
                    f"{part['prompts_high']:+.4f})"
                )
            lines.append(
                f"  {axis}: {part['share_of_the_way']:.0%} of the way to the best answer, {rise}; "
                f"significant falls: {', '.join(falls) or 'none'}; PPO adds "
                f"{part['ppo_adds']:+.3f} a round"
            )
        refusals = seed["false_refusals"]
        lines.append(
            f"  false refusals: {refusals['change']:+.1%} "
            f"({refusals['low']:+.1%} to {refusals['high']:+.1%})"
        )
    for axis, figures in found["over_seeds"].items():
        for name, words in (("slope", "slope"), ("ppo_adds", "a round's PPO adds")):
            if it := figures.get(name):
                interval = f"{it['mean']:+.4f} ({it['low']:+.4f} to {it['high']:+.4f})"
                lines.append(f"{axis} over the seeds: {words} {interval}")
    return "\n".join(lines)


def figure(found: dict[str, Any]) -> go.Figure:
    """The versions on the plane of both axes, as the paper's Fig 11; both scores by version; and of
    each round what its reward models promised beside what came."""
    drawn = make_subplots(
        cols=3,
        subplot_titles=("Both gold scores", "By version", "Promised by the proxy, and what came"),
    )
    for number, (name, seed) in enumerate(found["seeds"].items()):
        rows = seed["versions"]
        names = [row["name"] for row in rows]
        # One seed's versions are named, those of the others when pointed at.
        named = set() if number else {*names[:3], names[-1]}
        line = {"color": COLOURS[number % len(COLOURS)], "width": 1.5}
        drawn.add_scatter(
            x=[row["helpfulness"] for row in rows], y=[row["safety"] for row in rows],
            text=[it if it in named else "" for it in names], hovertext=names,
            mode="lines+markers+text", textposition="bottom right", line=line,
            name=name, legendgroup=name, row=1, col=1,
        )  # fmt: skip
        for axis, dash in zip(AXES, ("solid", "dash"), strict=True):
            drawn.add_scatter(
                x=names, y=[row[axis] for row in rows], mode="lines+markers",
                line={**line, "dash": dash}, name=f"{name}, {axis}",
                legendgroup=name, row=1, col=2,
            )  # fmt: skip
    for axis, symbol in zip(AXES, ("circle", "diamond-open"), strict=True):
        changes = [
            (row["proxy"][axis]["difference"], step["change"], f"{name} {row['name']}")
            for name, seed in found["seeds"].items()
            for row, step in zip(seed["versions"][1:], seed[axis]["steps"], strict=True)
        ]
        promised, came, which = zip(*changes, strict=True)
        drawn.add_scatter(
            x=promised, y=came, text=which, mode="markers", name=f"a round's {axis}", row=1, col=3,
            marker={"symbol": symbol, "size": 9, "color": "#444"},
        )  # fmt: skip
    drawn.add_hline(y=0, line_width=1, row=1, col=3)
    drawn.add_vline(x=0, line_width=1, row=1, col=3)
    drawn.update_xaxes(title="helpfulness", row=1, col=1)
    drawn.update_yaxes(title="safety", row=1, col=1)
    drawn.update_yaxes(title="gold score, 1: the best answer", row=1, col=2)
    drawn.update_xaxes(title="change of the raw score, logits", row=1, col=3)
    drawn.update_yaxes(title="change of the gold score", row=1, col=3)
    return drawn.update_layout(template="plotly_white", margin={"l": 70, "t": 60, "b": 70})


def main() -> None:
    parser = argparse.ArgumentParser(description="Report on the rounds of several seeds.")
    parser.add_argument("folders", type=Path, nargs="+", help="what demo.rounds wrote, one a seed")
    parser.add_argument("--plot", type=Path, help="HTML file of the figure")
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    arguments = parser.parse_args()
    found = report(arguments.folders)
    print(table(found))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if arguments.plot:
        figure(found).write_html(arguments.plot, include_plotlyjs=True)


if __name__ == "__main__":
    main()
