"""What an evaluation measured of a new chat model beside the old one, as tables (docs/release.md).

What was not measured is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from annotation_app import figures
from annotation_app.stage_curves import Result
from annotation_app.tables import Column, Table, is_number

GROUPS = {
    "all": "all prompts",
    "helpfulness_prompts": "helpfulness prompts",
    "borderline_prompts": "borderline prompts",
    "safety_prompts": "safety prompts",
}
COMPARED = ("helpfulness", "safety", "combined", "independent")
NUMBERS = (Column("Before"), Column("After"))
SHARE_PAIR = (Column("Before", "share"), Column("After", "share"))
PROMPTS = Column("Prompts", "count")


def _paired(result: Result, name: str) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Of each group of prompts its words, the figures of ``name`` and how many prompts it has."""
    for key, words in GROUPS.items():
        group = result.get(key) or {}
        found = group.get(name)
        if isinstance(found, Mapping) and is_number(found.get("before")):
            yield words, found, group.get("count", 0)


def chat_tables(result: Result) -> Iterator[Table]:
    """Everything that was measured, the scores first."""
    yield from _scores(result)
    yield from _refusals(result)
    yield from _judged(result)
    yield from _tasks(result)
    yield from _alike(result)
    yield from _lengths(result)


def _scores(result: Result) -> Iterator[Table]:
    found = [
        (f"{score}, {words}", it, count)
        for score in COMPARED
        for words, it, count in _paired(result, score)
    ]
    rows: list[tuple[Any, ...]]
    rows = [(name, it["before"], it.get("after"), count) for name, it, count in found]
    named = [{**it, "name": name} for name, it, _ in found]
    counts = [count for *_, count in found]
    title = "Scores before and after"
    note = (
        "Mean logits on the test prompts, which nothing was trained on. The new model was trained "
        "on the round's two reward models: that they rise shows that training worked, not that "
        "people agree."
    )
    columns = [Column("Score"), *NUMBERS, PROMPTS]
    figure = figures.before_and_after(named)
    yield Table("scores", title, columns, rows, figure, note, counts, "prompts")
    rows = [(name, *(it.get(k) for k in ("difference", "low", "high", "win_rate")), count)
            for name, it, count in found]  # fmt: skip
    columns = [Column("Score"), Column("Difference"), Column("Low"), Column("High"),
               Column("Won", "share"), PROMPTS]  # fmt: skip
    title = "After minus before"
    note = "Paired by prompt, with the 95 % interval; won: higher after than before, ties half."
    figure = figures.differences(named, title)
    yield Table("differences", title, columns, rows, figure, note, counts, "prompts")


def _refusals(result: Result) -> Iterator[Table]:
    found = list(_paired(result, "refused"))
    rows = [(words, it["before"], it.get("after"), *_change(it), count)
            for words, it, count in found]  # fmt: skip
    columns = [Column("Prompts asked"), *SHARE_PAIR, *_differing("share"), PROMPTS]
    title = "Refusals"
    note = "On safety prompts a refusal may be right; on helpfulness and borderline ones it is not."
    figure = figures.differences([{**it, "name": words} for words, it, _ in found], title)
    figure["layout"]["xaxis"]["tickformat"] = ".0%"
    counts = [count for *_, count in found]
    yield Table("refusals", title, columns, rows, figure, note, counts, "prompts")


def _change(it: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return it.get("difference"), it.get("low"), it.get("high")


def _differing(kind: str = "text") -> tuple[Column, Column, Column]:
    return Column("Difference", kind), Column("Low", kind), Column("High", kind)


def _judged(result: Result) -> Iterator[Table]:
    judged = result.get("judge") or {}
    keys = ("wins", "ties", "losses", "unclear", "win_rate", "low", "high")
    rows = [(criterion, *(it.get(key) for key in keys)) for criterion, it in judged.items()]
    columns = [Column("Criterion"), Column("Won", "count"), Column("Tied", "count"),
               Column("Lost", "count"), Column("Not understood", "count"),
               Column("Win rate", "share"), Column("Low", "share"),
               Column("High", "share")]  # fmt: skip
    note = (
        "A chat model compares old and new answers, each pair in both orders; ties count half. A "
        "pair about which it is not understood counts as nothing; where those are more than half "
        "of the pairs asked about, there is no win rate."
    )
    counts = [it.get("count", 0) for it in judged.values()]
    yield Table("judge", "A judge's comparisons", columns, rows, None, note, counts, "prompts")


def _tasks(result: Result) -> Iterator[Table]:
    tasks = result.get("tasks") or {}
    found = [
        (f"{name}, {figure}", it[figure], it.get("count", 0))
        for name, it in tasks.items()
        for figure in ("acc", "acc_norm")
        if isinstance(it.get(figure), Mapping)
    ]
    rows = [(name, it.get("before"), it.get("after"), *_change(it), it.get("p_value"), count)
            for name, it, count in found]  # fmt: skip
    columns = [Column("Task"), *SHARE_PAIR, *_differing("share"), Column("p"),
               Column("Questions", "count")]  # fmt: skip
    title = "What tuning may cost"
    note = "Accuracy on task files; acc_norm takes the option that is likeliest by character."
    known = [{**it, "name": name} for name, it, _ in found if it.get("difference") is not None]
    drawn = figures.differences(known, title)
    drawn["layout"]["xaxis"]["tickformat"] = ".0%"
    counts = [count for *_, count in found]
    yield Table("tasks", title, columns, rows, drawn if known else None, note, counts, "questions")


def _alike(result: Result) -> Iterator[Table]:
    found = result.get("self_bleu") or {}
    rows = [("Self-BLEU", found["before"], found.get("after"), *_change(found))] if found else []
    columns = [Column("Figure"), *NUMBERS, *_differing()]
    samples = found.get("samples", "several")
    note = f"How alike {samples} answers to the same prompt are; 1: always the same."
    counts = [found.get("prompts", 0)]
    yield Table("diversity", "Diversity", columns, rows, None, note, counts, "prompts")


def _lengths(result: Result) -> Iterator[Table]:
    groups = [(words, group) for key, words in GROUPS.items() if (group := result.get(key))]
    rows = [
        (words, *(group.get(k) for k in ("length_tokens_before", "length_tokens_after",
                                         "truncated_after")), group.get("count", 0))
        for words, group in groups
        if is_number(group.get("length_tokens_after"))
    ]  # fmt: skip
    columns = [Column("Prompts asked"), *NUMBERS, Column("Cut at the limit, after", "share"),
               PROMPTS]  # fmt: skip
    counts = [row[-1] for row in rows]
    yield Table("lengths", "Length of the answers", columns, rows, None, "Mean tokens.", counts,
                "prompts")  # fmt: skip
