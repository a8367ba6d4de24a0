"""What a chat model's judging holds, as tables: its verdicts, and what its order bias says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from annotation_app.reward_figures import MODEL, pruned, report_tables
from annotation_app.tables import Column, Table

Judged = Sequence[tuple[str, Mapping[str, Any]]]  # a judge's name and the result of its judging

COLUMNS = (
    MODEL, Column("What it did"), Column("Share", "share"), Column("Low", "share"),
    Column("High", "share"), Column("Count", "count"), Column("Of", "count"), Column("Of what"),
)  # fmt: skip
MISSING = {
    "unparsable": "could not be understood",
    "refused": "refused to hear the question",
    "unanswered": "gave no answer",
}
NOTE = (
    "Low and high: the 95 % interval. Each comparison is asked about twice, each response standing "
    "first once. A judge without a favourite place picks the first one in half of its answers. "
    "Where the orders contradict each other, or both say tie, or an answer cannot be understood or "
    "was refused, the comparison counts half in the accuracy."
)


def order_table(judged: Judged) -> Table:
    rows = [(name, *row) for name, it in judged for row in _rows(it)]
    counts = [it["count"] for _, it in judged]
    table = Table("orders", "Order bias of judges", COLUMNS, rows, None, NOTE, counts)
    return pruned(table, len(judged))


def _rows(it: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    yield "picked the response that stood first", *_shared(it["first_picked"]), "answers"
    yield "decided alike in both orders", *_shared(it["consistent"]), "comparisons"
    for name, what in MISSING.items():
        share = it[name] / it["questions"] if it["questions"] else None
        yield what, share, None, None, it[name], it["questions"], "questions"


def _shared(found: Mapping[str, Any]) -> tuple[Any, ...]:
    count = None if found["share"] is None else round(found["share"] * found["count"])
    return found["share"], found["low"], found["high"], count, found["count"]


def judging_tables(name: str, result: Mapping[str, Any]) -> list[Table]:
    """All of one judging; the order bias comes after the accuracy."""
    if not result["count"]:
        return []
    accuracy, *others = report_tables([(name, result["report"])])
    return [accuracy, order_table([(name, result)]), *others]
