"""Figures as tables: the page shows a table, its plot and its CSV from the same rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard

from django.http import Http404, HttpResponse

Figure = dict[str, Any]

FEW = 40  # rows of a long series that a page shows
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet knows that a cell is to be run


class Column(NamedTuple):
    """What stands in a column: a text, a count, a number or a share."""

    name: str
    kind: str = "text"

    def shown(self, value: Any) -> str:
        if value is None or value == "":
            return "–"
        if self.kind == "share":
            return in_figures(100 * float(value), ".1f") + "\u00a0%"
        return in_figures(value) if isinstance(value, float) else str(value)


class Table(NamedTuple):
    """Rows with their names; ``figure`` draws the same numbers, ``note`` says how to read them.

    ``counts`` has what stands behind it, for each model.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    figure: Figure | None = None
    note: str = ""
    counts: Sequence[int] = ()
    unit: str = "comparisons"

    @property
    def shown_rows(self) -> list[list[str]]:
        return [
            [column.shown(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    @property
    def few_rows(self) -> list[list[str]]:
        """Some of the rows, evenly, the last among them; all where they are few."""
        stride = -(-len(self.rows) // FEW) or 1
        return self._replace(rows=self.rows[(len(self.rows) - 1) % stride :: stride]).shown_rows

    @property
    def n(self) -> str:
        """How many comparisons (or what ``unit`` says) stand behind it, in words."""
        low, high = min(self.counts, default=0), max(self.counts, default=0)
        return f"{low} {self.unit}" if low == high else f"{low} to {high} {self.unit}"

    def csv(self) -> HttpResponse:
        return csv_file(f"{self.name}.csv", [column.name for column in self.columns], self.rows)


def in_figures(value: float, form: str = ".4g") -> str:
    """A number as every page writes it, with a minus sign where it is negative: −1.5."""
    return format(value, form).replace("-", "−")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is one; a missing one is None, and True is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def named(tables: Iterable[Table], name: str) -> Table:
    """The table of this name. Raises Http404."""
    table = next((table for table in tables if table.name == name), None)
    if table is None:
        raise Http404
    return table


def csv_file(name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> HttpResponse:
    """A download; a text that a spreadsheet would run as a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return HttpResponse(
        text.getvalue(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
