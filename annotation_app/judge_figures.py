"""What a chat model's judging holds, as tables: its verdicts, and what its order bias says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from annotation_app.reward_figures import report_tables
from annotation_app.tables import Column, Table

Judged = Sequence[tuple[str, Mapping[str, Any]]]  # a judge's name and the result of its judging

COLUMNS = (
    Column("Judge"), Column("Comparisons", "count"), Column("Questions", "count"),
    Column("First one picked", "share"), Column("Picked, low", "share"),
    Column("Picked, high", "share"), Column("Answers that picked one", "count"),
    Column("Both orders agree", "share"), Column("Agree, low", "share"),
    Column("Agree, high", "share"), Column("Understood in both", "count"),
    Column("Not understood", "count"), Column("Refused", "count"), Column("No answer", "count"),
)  # fmt: skip
SHARE = ("share", "low", "high", "count")
NOTE = (
    "Each comparison is asked about twice, each response standing first once. A judge without a "
    "favourite place picks the first one in half of its answers. Where the orders contradict each "
    "other, or both say tie, or an answer cannot be understood or was refused, the comparison "
    "counts half in the accuracy."
)


def order_table(judged: Judged) -> Table:
    rows = [
        (name, it["count"], it["questions"], *(it["first_picked"][k] for k in SHARE),
         *(it["consistent"][k] for k in SHARE), it["unparsable"], it["refused"], it["unanswered"])
        for name, it in judged
    ]  # fmt: skip
    counts = [it["count"] for _, it in judged]
    return Table("orders", "Order bias of judges", COLUMNS, rows, None, NOTE, counts)


def judging_tables(name: str, result: Mapping[str, Any]) -> list[Table]:
    """All of one judging; the order bias comes after the accuracy."""
    if not result["count"]:
        return []
    accuracy, *others = report_tables([(name, result["report"])])
    return [accuracy, order_table([(name, result)]), *others]
