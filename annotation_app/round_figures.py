"""What the stages of a round logged and left, as tables with their plots.

Of ``result.json`` (docs/round.md) here; curves, the evaluation and what builders of data left have
modules of their own.
What is missing is left out, so that older runs have a page too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from annotation_app import figures
from annotation_app.built_figures import (
    built_told,
    dialogue_tables,
    distilled_tables,
    distilled_told,
    keeping_tables,
    keeping_told,
)
from annotation_app.chat_figures import chat_tables
from annotation_app.curves import Metrics
from annotation_app.models import Run
from annotation_app.stage_curves import CURVES, Result, curve
from annotation_app.tables import Column, Table, is_number

DOES: dict[str, str] = {
    Run.Kind.SFT: "learns written answers",
    Run.Kind.TEMPERATURE: "finds what to draw at",
    Run.Kind.GHOST_ATTENTION: "builds dialogues that keep an instruction",
    Run.Kind.CONTEXT_DISTILLATION: "builds safer answers",
    Run.Kind.REJECTION: "learns the best of many answers",
    Run.Kind.DPO: "learns from pairs",
    Run.Kind.PPO: "learns from rewards",
    Run.Kind.INSTRUCTION_KEEPING: "how long instructions last",
    Run.Kind.EVALUATE: "old and new side by side",
}


class Group(NamedTuple):
    """Tables that are read together. Curves are small and many; the others stand by themselves."""

    title: str
    tables: list[Table]
    are_curves: bool = False


def stage_groups(
    stage: str,
    metrics: Metrics,
    result: Result | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Group]:
    """Everything that a stage has to show so far: what it left first, then how it went.

    ``result`` is None while it runs; ``settings`` are the stage's own.
    """
    left = list(_LEFT[stage](result)) if result is not None and stage in _LEFT else []
    groups = [Group("", [table for table in left if table.rows])]
    if stage == Run.Kind.TEMPERATURE and result is None:
        so_far = [table for table in _swept_so_far(metrics) if table.rows]
        groups.append(Group("So far", so_far, are_curves=True))
    for title, panels in CURVES.get(stage, ()):
        tables = [curve(stage, panel, metrics, result or {}, settings or {}) for panel in panels]
        groups.append(Group(title, [table for table in tables if table.rows], are_curves=True))
    return [group for group in groups if group.tables]


def tables(groups: Iterable[Group]) -> list[Table]:
    """All of them, in their order."""
    return [table for group in groups for table in group.tables]


# --- what rejection sampling and the sweep left --------------------------------------------------


def _rejection(result: Result) -> Iterator[Table]:
    best_of = result.get("best_of") or {}
    rows = sorted((int(count), score) for count, score in best_of.items())
    selected, earlier = result.get("selected"), result.get("selected_earlier")
    title = "Best of N answers"
    note = (
        "The expected best combined score (logit) of N answers to a prompt, over all subsets of "
        "those drawn; one that cannot be selected, cut or empty, counts as its prompt's worst. The "
        "dashed line is the mean of what was selected."
    )
    columns = [Column("N", "count"), Column("Expected best score")]
    figure = figures.best_of(rows, result.get("selected_scores"), title)
    counts = [result.get("prompts", 0)]
    yield Table("best-of", title, columns, rows, figure, note, counts, "prompts")
    if selected and earlier is not None:
        sources = (("drawn in this round", selected - earlier), ("earlier rounds", earlier))
        shares = [(name, count, count / selected) for name, count in sources]
        columns = [Column("From"), Column("Answers", "count"), Column("Share", "share")]
        note = "The best answers of earlier rounds compete under today's reward models."
        yield Table("selected", "Selected answers", columns, shares, None, note, [selected],
                    "selected answers")  # fmt: skip


def _sweep(result: Result) -> Iterator[Table]:
    curve = result.get("curve") or []
    counts = sorted({c for row in curve for c in row.get("max", {})}, key=int)
    pick, unusable = result.get("temperature"), result.get("unusable") or {}
    rows = [
        (row["temperature"], int(count), *_interval(row.get("max", {}).get(count)),
         *_interval(row.get("median", {}).get(count)),
         *(_interval(row.get("behind")) if count == counts[-1] else (None, None, None)),
         unusable.get(str(row["temperature"])), "picked" if row["temperature"] == pick else "")
        for row in curve
        for count in counts
    ]  # fmt: skip
    columns = [Column("Temperature"), Column("N", "count"),
               *_bounded("max@N"), *_bounded("median@N"), *_bounded("Behind the pick"),
               Column("Unusable answers", "share"), Column("Pick")]  # fmt: skip
    title = "Scores by temperature"
    note = (
        "Sigmoid of the combined score, mean over the prompts with its 95 % interval. Where the "
        "interval of what it is behind covers 0, these prompts do not tell it from the pick."
    )
    figure = figures.sweep(curve, counts, pick, title)
    yield Table("sweep", title, columns, rows, figure, note, [result.get("prompts", 0)], "prompts")


def _bounded(name: str) -> tuple[Column, Column, Column]:
    return Column(name), Column(f"{name}, low"), Column(f"{name}, high")


def _interval(found: Mapping[str, Any] | None) -> tuple[Any, Any, Any]:
    it = found or {}
    return it.get("mean"), it.get("low"), it.get("high")


def _swept_so_far(metrics: Metrics) -> Iterator[Table]:
    """Mean scores of the parts that are done, while the sweep runs."""
    parts: dict[float, list[Mapping[str, Any]]] = {}
    for line in metrics:
        if is_number(line.get("temperature")) and is_number(line.get("objective/scores")):
            parts.setdefault(line["temperature"], []).append(line)
    keys = ("objective/scores", "candidates/best_scores")
    rows: list[tuple[Any, ...]] = [
        (temperature, len(found), *(_mean(line.get(key) for line in found) for key in keys))
        for temperature, found in sorted(parts.items())
    ]
    columns = [Column("Temperature"), Column("Parts", "count"), Column("Mean score"),
               Column("Best of each prompt")]  # fmt: skip
    title = "Scores so far"
    figure = figures.sweep([], [], None, title)
    for colour, (name, place) in enumerate((("mean", 2), ("best of each prompt", 3))):
        points = [(row[0], row[place]) for row in rows if row[place] is not None]
        figure["data"].append(figures.joined(name, points, colour))
    note = "Logits, mean over the parts of the prompts that are done."
    yield Table("swept", title, columns, rows, figure, note, [len(rows)], "temperatures")


def _mean(values: Iterable[Any]) -> float | None:
    known = [value for value in values if is_number(value)]
    return sum(known) / len(known) if known else None


_LEFT: dict[str, Callable[[Result], Iterator[Table]]] = {
    Run.Kind.REJECTION: _rejection,
    Run.Kind.TEMPERATURE: _sweep,
    Run.Kind.GHOST_ATTENTION: dialogue_tables,
    Run.Kind.CONTEXT_DISTILLATION: distilled_tables,
    Run.Kind.INSTRUCTION_KEEPING: keeping_tables,
    Run.Kind.EVALUATE: chat_tables,
}


# --- in words ------------------------------------------------------------------------------------


def sentences(stage: str, result: Result | None) -> list[str]:
    """What a finished stage came to."""
    found = _TOLD[stage](result) if result and stage in _TOLD else []
    return [sentence for sentence in found if sentence]


def _ppo_told(result: Result) -> list[str]:
    """Why it ended, and which policy was kept."""
    done, kept = result.get("iterations"), result.get("best_iteration")
    why = _STOPPED.get(result.get("stopped_by", ""), "")
    kept_words = "the one it started from" if kept == 0 else f"that of iteration {kept}"
    return [
        f"Ended after {done} iterations{why}." if done is not None else "",
        f"The policy kept is {kept_words}." if kept is not None else "",
    ]


_STOPPED = {
    "iterations": ", all that were allowed",
    "patience": " by early stopping: validation had not risen for a while",
    "kl_budget": " by early stopping: held-out answers were beyond the divergence budget",
}


def _rejection_told(result: Result) -> list[str]:
    drawn, at = result.get("candidates"), result.get("temperature")
    tuned, written = result.get("fine_tuned_on"), result.get("sft_answers")
    hot = f" at temperature {at:g}" if at is not None else ""
    more = f", {written} of them from files of answers" if written else ""
    left_out = _left_out(result, "dialogues")
    return [
        f"{drawn} answers to {result.get('prompts')} prompts were drawn{hot}; "
        f"{result.get('selected')} were selected."
        if drawn is not None
        else "",
        f"Fine-tuned on {tuned} answers{more}{left_out}." if tuned is not None else "",
    ]


def _sweep_told(result: Result) -> list[str]:
    """The pick, and which temperatures these prompts do not tell from it."""
    pick, curve = result.get("temperature"), result.get("curve") or []
    alike = [
        f"{row['temperature']:g}"
        for row in curve
        if row["temperature"] != pick and (row.get("behind") or {}).get("high") is not None
        and row["behind"]["high"] >= 0
    ]  # fmt: skip
    told = f"{', '.join(alike)} cannot be told from it on these prompts." if alike else ""
    if pick is None:
        return []
    return [f"Picked {pick:g}: the highest mean of max@{result.get('pick_at')}.", told]


def _tuned_told(result: Result) -> list[str]:
    what = "pairs" if "pairs" in result else "answers"
    many = result.get("rows", result.get("pairs"))
    left_out = _left_out(result, "pairs" if "pairs" in result else "dialogues")
    return [f"Trained on {many} {what}{left_out}."] if many is not None else []


def _left_out(result: Result, what: str) -> str:
    """What was not learnt from, to be said after what was."""
    long, held_out = result.get("too_long"), result.get("held_out")
    return (f"; {long} were too long and left out" if long else "") + (
        f"; {held_out} {what} were left out because no model may learn from their prompts"
        if held_out
        else ""
    )


def _evaluation_told(result: Result) -> list[str]:
    kl = result.get("kl")
    if kl is None:
        return []
    return [f"The new model is {kl:.3g} nats of the whole answer from the old one."]


_TOLD: dict[str, Callable[[Result], list[str]]] = {
    Run.Kind.PPO: _ppo_told,
    Run.Kind.REJECTION: _rejection_told,
    Run.Kind.TEMPERATURE: _sweep_told,
    Run.Kind.SFT: _tuned_told,
    Run.Kind.DPO: _tuned_told,
    Run.Kind.GHOST_ATTENTION: built_told,
    Run.Kind.CONTEXT_DISTILLATION: distilled_told,
    Run.Kind.INSTRUCTION_KEEPING: keeping_told,
    Run.Kind.EVALUATE: _evaluation_told,
}
