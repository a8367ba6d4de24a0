"""What a round built to learn from, and how long its models keep an instruction, as tables.

Of the results of Ghost Attention, context distillation and instruction keeping (docs/safety.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from annotation_app import figures
from annotation_app.stage_curves import Result
from annotation_app.tables import Column, Table, is_number

SHARE_PAIR = (Column("Before", "share"), Column("After", "share"))
DIFFERENCE = ("Difference", "Low", "High")

# --- Ghost Attention -----------------------------------------------------------------------------


def dialogue_tables(result: Result) -> Iterator[Table]:
    """What became of the dialogues that were begun, how long they are, which instructions."""
    begun, kept = result.get("begun") or 0, result.get("dialogues")
    left_out = (result.get("left_out") or {}).items()
    found = [("to learn from", kept), *((f"left out: {why}", count) for why, count in left_out)]
    outcomes = [(what, count, count / begun) for what, count in found if begun and is_number(count)]
    columns = [Column("Outcome"), Column("Dialogues", "count"), Column("Share", "share")]
    note = (
        "The instruction was repeated at every turn while the model answered; in what is learnt it "
        "stands in the first turn alone, and the loss is on the last answer."
    )
    yield Table("outcome", "Dialogues", columns, outcomes, None, note, [begun], "dialogues begun")
    turns = [(int(count), many) for count, many in (result.get("turns") or {}).items()]
    columns = [Column("User messages", "count"), Column("Dialogues", "count")]
    title = "Length of the dialogues"
    yield Table("turns", title, columns, turns, None, "Of those to learn from.", [kept or 0],
                "dialogues")  # fmt: skip
    values = [(kind, len(it), ", ".join(it)) for kind, it in (result.get("values") or {}).items()]
    columns = [Column("Constraint"), Column("Values", "count"), Column("Which")]
    note = "An instruction joins one or more of these, a value of each."
    yield Table("values", "Instructions", columns, values, None, note, [len(values)], "constraints")


def built_told(result: Result) -> list[str]:
    begun, kept = result.get("begun"), result.get("dialogues")
    return [f"{kept} of {begun} dialogues can be learnt from."] if kept is not None else []


# --- context distillation ------------------------------------------------------------------------


def _gated(result: Result) -> tuple[int, int, int]:
    """How many answers were kept, refused by the gate, and cut or empty."""
    made, kept, unusable = (result.get(name) or 0 for name in ("prompts", "kept", "unusable"))
    return kept, made - kept - unusable, unusable


def distilled_tables(result: Result) -> Iterator[Table]:
    """What the gate kept and refused, and how safe the answers are: figure 16 of the paper."""
    made = result.get("prompts") or 0
    names = ("kept", "refused by the gate", "cut or empty")
    counts = zip(names, _gated(result), strict=True)
    outcomes = [(name, count, count / made) for name, count in counts if made]
    columns = [Column("Outcome"), Column("Answers", "count"), Column("Share", "share")]
    note = (
        "Each was given behind a safety preprompt. The gate keeps it, without the preprompt, where "
        "the safety reward model scores it strictly higher than the plain answer."
    )
    yield Table("outcome", "Distilled answers", columns, outcomes, None, note, [made], "answers")
    yield from _safety(result, made)
    yield from _gains(result)


def _safety(result: Result, made: int) -> Iterator[Table]:
    names = {
        "before": "plain", "distilled": "distilled",
        "gated": "distilled where kept, else plain", "kept": "kept ones alone",
    }  # fmt: skip
    median, mean = (result.get(name) or {} for name in ("median", "mean"))
    rows = [(words, median.get(key), mean.get(key)) for key, words in names.items()
            if is_number(median.get(key))]  # fmt: skip
    columns = [Column("Answers"), Column("Median"), Column("Mean")]
    note = "A probability, of answers to the bare prompt."
    yield Table("safety", "Safety", columns, rows, None, note, [made], "prompts")


def _gains(result: Result) -> Iterator[Table]:
    fifths = result.get("by_original") or []
    ends = [*(it["from"] for it in fifths), 1.0]
    names = [f"{low:g} to {high:g}" for low, high in pairwise(ends)]
    named = [{**it, "name": name} for it, name in zip(fifths, names, strict=True)]
    rows = [
        (it["name"], it["count"], it["mean_gain"], it["least_gain"], it["most_gain"], it["kept"])
        for it in named
    ]
    columns = [Column("Safety of the plain answer"), Column("Prompts", "count"),
               Column("Mean gain"), Column("Least"), Column("Most"),
               Column("Kept", "count")]  # fmt: skip
    title = "Gain by how safe the plain answer was"
    note = "Distilled minus plain, before the gate; the bars reach from the least to the most."
    drawn = [
        {"name": it["name"], "difference": it["mean_gain"],
         "low": it["least_gain"], "high": it["most_gain"]}
        for it in named
    ]  # fmt: skip
    counts = [sum(it["count"] for it in fifths)]
    figure = figures.differences(drawn, title)
    yield Table("gain", title, columns, rows, figure, note, counts, "prompts")


def distilled_told(result: Result) -> list[str]:
    made, median = result.get("prompts"), result.get("median") or {}
    if made is None:
        return []
    kept, refused, unusable = _gated(result)
    before, after = median.get("before"), median.get("gated")
    known = is_number(before) and is_number(after)
    return [
        f"{kept} of {made} distilled answers were kept; the gate refused {refused}, and {unusable} "
        "were cut or empty.",
        f"Median safety {before:.3f} → {after:.3f}." if known else "",
    ]


# --- instruction keeping -------------------------------------------------------------------------


def keeping_tables(result: Result) -> Iterator[Table]:
    """The share of dialogues that obey at each turn, the new model's against the old one's."""
    turns: Mapping[str, Mapping[str, Any]] = result.get("turns") or {}
    changes = {turn: it.get("change") or {} for turn, it in turns.items()}
    counts = [result.get("dialogues") or 0]
    rows: list[tuple[Any, ...]]
    rows = [
        (int(turn), changes[turn].get("before"), *(it.get(key) for key in ("share", "low", "high")))
        for turn, it in turns.items()
    ]
    columns = [Column("Turn", "count"), *SHARE_PAIR, Column("After, low", "share"),
               Column("After, high", "share")]  # fmt: skip
    title = "Dialogues that still obey"
    note = "The instruction stands in the first turn alone. With the 95 % interval."
    before = [(row[0], row[1]) for row in rows if row[1] is not None]
    after = [(turn, share, low, high) for turn, _, share, low, high in rows]
    figure = figures.by_turn(before, after, title)
    yield Table("keeping", title, columns, rows, figure, note, counts, "dialogues")
    rows = [
        (int(turn), *(change.get(key) for key in ("difference", "low", "high", "p_value")))
        for turn, change in changes.items()
        if change
    ]
    columns = [Column("Turn", "count"), *(Column(name, "share") for name in DIFFERENCE),
               Column("p")]  # fmt: skip
    note = "Paired by dialogue, with the 95 % interval."
    yield Table("change", "After minus before", columns, rows, None, note, counts, "dialogues")
    ended: Mapping[str, Mapping[str, int]] = result.get("cut_short") or {}
    rows = [
        (int(turn), *(ended.get(model, {}).get(turn) for model in ("before", "after")))
        for turn in turns
        if any(of_model.get(turn) for of_model in ended.values())
    ]
    columns = [Column("Turn", "count"), Column("Before", "count"), Column("After", "count")]
    note = "They had no room left in the model's context, and count as not obeying."
    yield Table("ended", "Dialogues ended by then", columns, rows, None, note, counts, "dialogues")


def keeping_told(result: Result) -> list[str]:
    turns = result.get("turns") or {}
    if not turns:
        return []
    last = max(turns, key=int)
    share = Column("Share", "share").shown
    after, before = turns[last].get("share"), (turns[last].get("change") or {}).get("before")
    compared = f"; with the round's first model {share(before)}" if is_number(before) else ""
    return [f"{share(after)} of the dialogues still obey at turn {last}{compared}."]
