"""What was measured of reward models, as tables with their plots: one model, or several beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from annotation_app import figures
from annotation_app.figures import Line, Reports
from annotation_app.tables import Column, Figure, Table
from reward.preferences import STRONGEST_FIRST, SafetyLabel

Cells = tuple[Any, ...]

MODEL = Column("Model")
COMPARISONS = Column("Comparisons", "count")
DIALOGUES = Column("Dialogues", "count")
ACCURACY = (Column("Accuracy", "share"), Column("Low", "share"), Column("High", "share"))
INTERVALS = "Low and high: the 95 % interval."
GROUPS = {
    "by_strength": ("Preference strength", "by strength"),
    "by_safety": ("Safety bin", "by safety bin"),
    "by_batch": ("Batch", "by batch"),
    "by_turn": ("Turn", "by turn of the dialogue"),
    "by_prompt_characters": ("Prompt (characters)", "by length of the prompt"),
    "by_annotators": ("Annotators", "by number of annotators"),
    "by_source": ("Source", "by source"),
    "by_criterion": ("Criterion", "by criterion, of all held-out comparisons"),
}
SHOWN_FIRST = [*STRONGEST_FIRST, *SafetyLabel]


def report_tables(reports: Reports) -> list[Table]:
    """Everything that the reports hold; what none of them has is left out."""
    if not reports:
        return []
    found = [_overall(reports)]
    groups = [
        *GROUPS,
        *sorted({n for _, r in reports for n in r if n.startswith("by_")} - {*GROUPS}),
    ]
    found += [_grouped(reports, group) for group in groups]
    found += [table for make in _FURTHER for table in make(reports)]
    return [pruned(table, len(reports)) for table in found if table.rows]


def pruned(table: Table, models: int) -> Table:
    """Without columns that say nothing, and without a plot of one bar."""
    kept = [
        n
        for n, column in enumerate(table.columns)
        if any(row[n] is not None for row in table.rows) and (models > 1 or column != MODEL)
    ]
    return table._replace(
        columns=[table.columns[n] for n in kept],
        rows=[[row[n] for n in kept] for row in table.rows],
        figure=table.figure if len(table.rows) > 1 else None,
    )


def _accuracy(it: Mapping[str, Any]) -> Cells:
    return (it.get("accuracy"), it.get("low"), it.get("high"))


def _overall(reports: Reports) -> Table:
    rows = [
        (name, r.get("count", 0), r.get("roots"), *_accuracy(r), r.get("macro_by_strength"))
        for name, r in reports
    ]
    columns = [MODEL, COMPARISONS, DIALOGUES, *ACCURACY, Column("Mean over strengths", "share")]
    bars = [(name, {"all": {"all": r}}) for name, r in reports]
    figure = figures.accuracy_bars(bars, "all", ["all"], "Held-out accuracy")
    return Table("accuracy", "Accuracy", columns, rows, figure, INTERVALS, _counts(reports))


def _grouped(reports: Reports, group: str) -> Table:
    column, title = GROUPS.get(group, (group.removeprefix("by_").replace("_", " "), ""))
    title = title or f"by {column}"
    names = _in_order({name: None for _, r in reports for name in r.get(group) or {}}, group)
    if names == ["unknown"]:
        names = []
    rows = [
        (model, name.replace("_", " "), it["count"], *_accuracy(it))
        for model, r in reports
        for name in names
        if (it := (r.get(group) or {}).get(name)) is not None
    ]
    figure: Figure | None = figures.accuracy_bars(reports, group, names, f"Accuracy {title}")
    columns = [MODEL, Column(column), COMPARISONS, *ACCURACY]
    counts = [sum(it["count"] for it in (r.get(group) or {}).values()) for _, r in reports]
    title = f"Accuracy {title}"
    if len(names) == 1:
        figure = None
    return Table(group.replace("_", "-"), title, columns, rows, figure, INTERVALS, counts)


def _counts(found: Reports) -> list[int]:
    return [it.get("count", 0) for _, it in found]


def _in_order(names: Mapping[str, None], group: str) -> list[str]:
    """The report's own order; strengths and bins as the recipe lists them, batches as counted."""
    if group == "by_batch":
        return sorted(names, key=figures.natural)
    known = [name for name in SHOWN_FIRST if name in names]
    return known + [name for name in names if name not in known]


# --- calibration ---------------------------------------------------------------------------------


def _having(reports: Reports, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, r[key]) for name, r in reports if r.get(key)]


def _calibration(reports: Reports, key: str, name: str, title: str, unit: str) -> Iterator[Table]:
    found = [
        (model, when, it, it[when])
        for model, it in _having(reports, key)
        for when in ("before", "after")
        if it.get(when)
    ]
    counted, fit = Column(unit, "count"), Column("Temperature")
    told = [
        (model, _fitted(when), it["count"], now["ece"], now.get("ece_by_chance"), now["brier"],
         now["log_loss"], it.get("temperature") if when == "after" else None)
        for model, when, it, now in found
    ]  # fmt: skip
    columns = [MODEL, Column("Temperature fitted"), counted, Column("ECE"),
               Column("ECE by chance"), Column("Brier score"), Column("Log loss"), fit]  # fmt: skip
    note = next((it.get("note", "") for _, _, it, _ in found), "")
    counts = [it["count"] for _, _, it, _ in found]
    yield Table(name, title, columns, told, None, note, counts, unit.lower())
    rows = [
        (model, _fitted(when), bin_["count"], *(bin_[k] for k in _BIN))
        for model, when, _, now in found
        for bin_ in now["bins"]
    ]
    models = list(dict.fromkeys(model for model, *_ in found))
    lines = [
        Line(f"{model}, fitted" if when == "after" else model, now["bins"], models.index(model),
             when == "after")
        for model, when, _, now in found
    ]  # fmt: skip
    columns = [MODEL, Column("Temperature fitted"), counted,
               *(Column(k.capitalize(), "share") for k in _BIN)]  # fmt: skip
    heading = f"Reliability: {title[0].lower()}{title[1:]}"
    figure = figures.reliability(lines, heading)
    points = "Each point is a bin."
    yield Table(f"{name}-bins", heading, columns, rows, figure, points, counts, unit.lower())


_BIN = ("low", "high", "predicted", "observed")


def _fitted(when: str) -> str:
    return "no" if when == "before" else "yes, on other folds"


def _preference_calibration(reports: Reports) -> Iterator[Table]:
    title = "Calibration of preferences"
    yield from _calibration(reports, "calibration", "calibration", title, "Comparisons")


def _safety_calibration(reports: Reports) -> Iterator[Table]:
    title = "Calibration of safety"
    yield from _calibration(reports, "safety_calibration", "safety-calibration", title, "Responses")


# --- unsafe responses ----------------------------------------------------------------------------


def _unsafe(reports: Reports) -> Iterator[Table]:
    found = _having(reports, "unsafe")
    chosen = [
        (model, _threshold(it[key]), it[key].get("threshold"), *(it[key].get(k) for k in _FLAGGED))
        for model, it in found
        for key in ("fixed", "fitted")
        if it.get(key)
    ]
    flagged = [Column("Flagged below"), Column("Responses", "count"), Column("Unsafe", "count"),
               Column("Flagged", "count"), Column("Recall", "share"),
               Column("Precision", "share")]  # fmt: skip
    yield Table(
        "unsafe-thresholds",
        "Threshold for unsafe responses",
        [MODEL, Column("Threshold"), *flagged],
        chosen,
        None,
        "A response is flagged when sigmoid(score) is below the threshold. What was fitted is "
        "measured on folds that it was not fitted on; a dash: no threshold has that precision. "
        "Rounds go on with the threshold of their own settings.",
        _counts(found),
        "labelled responses",
    )
    rows = [
        (model, row["threshold"], *(row.get(k) for k in _FLAGGED))
        for model, it in found
        for row in it["table"]
    ]
    figure = figures.by_threshold({m: it["table"] for m, it in found}, "Unsafe responses found")
    title = "Recall and precision of unsafe responses"
    columns = [MODEL, *flagged]
    counts, unit = _counts(found), "labelled responses"
    yield Table("unsafe-responses", title, columns, rows, figure, "", counts, unit)


def _threshold(it: Mapping[str, Any]) -> str:
    wanted = it.get("target_precision")
    return "the paper's" if wanted is None else f"fitted for a precision of {wanted:.0%}"


_FLAGGED = ("count", "unsafe", "flagged", "recall", "precision")


# --- ceiling, length, scores ---------------------------------------------------------------------


def _ceiling(reports: Reports) -> Iterator[Table]:
    found = _having(reports, "ceiling")
    rows = [
        (model, it.get("agreement_count"), it.get("agreement"), it.get("low"), it.get("high"),
         it.get("model_count"), it.get("model"), it.get("of_low"), it.get("of_high"))
        for model, it in found
    ]  # fmt: skip
    columns = [MODEL, Column("Pairs judged by several", "count"), Column("Agreement", "share"),
               Column("Ceiling, low", "share"), Column("Ceiling, high", "share"), COMPARISONS,
               Column("Accuracy against one annotator", "share"),
               Column("Of the low ceiling", "share"),
               Column("Of the high ceiling", "share")]  # fmt: skip
    note = (
        "Agreement is of two annotators of the same comparison; a model that knew everyone's "
        "preferences would agree with one annotator as often as the ceilings say, low to high."
    )
    yield Table("ceiling", "Accuracy and what agreement allows", columns, rows, None, note,
                [it.get("model_count") or 0 for _, it in found])  # fmt: skip


def _length(reports: Reports) -> Iterator[Table]:
    found = _having(reports, "length")
    rows = [(model, it["count"], *(it.get(k) for k in _LENGTH)) for model, it in found]
    columns = [MODEL, COMPARISONS, Column("Score for 100 characters more"), Column("Low"),
               Column("High"), Column("The same within chosen and rejected"), Column("Low "),
               Column("High "), Column("Correlation"), Column("Longer one chosen", "share"),
               Column("Longer one scores higher", "share")]  # fmt: skip
    yield Table("length", "Length bias", columns, rows, None, INTERVALS, _counts(found))
    groups = {"longer_won": "longer one chosen", "longer_lost": "shorter one chosen",
              "same_length": "same length"}  # fmt: skip
    by = [
        (model, {"by": {label: it[k] for k, label in groups.items() if it.get(k, {}).get("count")}})
        for model, it in found
    ]
    lengths = [
        (model, label, it["count"], *_accuracy(it))
        for model, r in by
        for label, it in r["by"].items()
    ]
    names, title = list(groups.values()), "Accuracy by which answer is longer"
    figure = figures.accuracy_bars(by, "by", names, title)
    columns = [MODEL, Column("Comparisons where"), COMPARISONS, *ACCURACY]
    yield Table("by-length", title, columns, lengths, figure, INTERVALS, _counts(found))


_LENGTH = (
    "slope", "slope_low", "slope_high", "slope_beyond_choice", "slope_beyond_choice_low",
    "slope_beyond_choice_high", "correlation", "chosen_longer", "model_prefers_longer",
)  # fmt: skip


def _scores(reports: Reports) -> Iterator[Table]:
    found = _having(reports, "scores")
    quantiles = list(next((it["quantiles"] for _, it in found), {}))
    rows = [
        (m, it["count"], it["mean"], it["sd"], *(it["quantiles"].get(q) for q in quantiles))
        for m, it in found
    ]
    names = [f"{float(q):.0%} quantile" for q in quantiles]
    columns = [MODEL, Column("Responses", "count"), Column("Mean"), Column("SD"),
               *(Column(name) for name in names)]  # fmt: skip
    yield Table("scores", "Scores", columns, rows, None, "", _counts(found), "responses")
    bars = {model: it["histogram"] for model, it in found if it.get("histogram")}
    counted = [
        (model, *bin_)
        for model, it in bars.items()
        for bin_ in zip(it["edges"], it["edges"][1:], it["chosen"], it["rejected"], strict=False)
    ]
    columns = [MODEL, Column("From"), Column("To"), Column("Chosen responses", "count"),
               Column("Rejected responses", "count")]  # fmt: skip
    title = "Distribution of scores"
    figure = figures.histograms(bars, title)
    note, counts = "Full lines: chosen responses; dashed: rejected ones.", _counts(found)
    yield Table("score-histogram", title, columns, counted, figure, note, counts, "responses")


def _drift(reports: Reports) -> Iterator[Table]:
    found = {model: it["batches"] for model, it in _having(reports, "drift")}
    rows = [
        (model, row["batch"], row["count"], *_accuracy(row), *(row.get(k) for k in _DRIFT),
         "alarm" if row.get("alarm") else "")
        for model, batches in found.items()
        for row in batches
    ]  # fmt: skip
    columns = [MODEL, Column("Batch"), COMPARISONS, *ACCURACY, Column("Earlier ones", "share"),
               Column("p"), Column("p of an alarm"), Column("Shift of scores (PSI)"),
               Column("PSI of an alarm"), Column("Alarm")]  # fmt: skip
    title = "Drift: accuracy batch by batch"
    figure = figures.over_batches(found, title)
    note = (
        "p: that chance alone would bring accuracy so far below that on the batches before. "
        "PSI: population stability index."
    )
    counts = [sum(row["count"] for row in batches) for batches in found.values()]
    yield Table("drift", title, columns, rows, figure, note, counts)


_DRIFT = ("earlier_accuracy", "p_value", "limit", "psi", "psi_limit")

_FURTHER: Sequence[Callable[[Reports], Iterator[Table]]] = (
    _unsafe, _preference_calibration, _safety_calibration, _ceiling, _length, _scores, _drift,
)  # fmt: skip


# --- several models on the same comparisons ------------------------------------------------------


def evaluation_tables(result: Mapping[str, Any]) -> list[Table]:
    """All figures of an evaluation; the paired differences come after the accuracy."""
    reports = [(model["name"], model["report"]) for model in result["models"]]
    first, *others = report_tables(reports)
    return [first, *_paired(result), *others]


def _paired(result: Mapping[str, Any]) -> Iterator[Table]:
    paired = result.get("paired") or []
    rows = [(p["first"], p["second"], p["count"], p.get("roots"), *(p.get(k) for k in _PAIRED))
            for p in paired]  # fmt: skip
    columns = [Column("First"), Column("Second"), COMPARISONS, DIALOGUES,
               Column("Difference", "share"), Column("Low", "share"), Column("High", "share"),
               Column("p"), Column("p, corrected"), Column("Only first right", "count"),
               Column("Only second right", "count"), Column("Both right", "count"),
               Column("Neither right", "count")]  # fmt: skip
    named = [{**p, "name": f"{figures.plain(p['first'])} −<br>{figures.plain(p['second'])}"}
             for p in paired]  # fmt: skip
    title = "First minus second, paired 95 % interval"
    note = (
        "On the same comparisons; p by exchanging the two models' answers dialogue by dialogue, "
        "corrected for the number of differences."
    )
    figure: Figure = figures.differences(named, title)
    figure["layout"]["xaxis"]["tickformat"] = ".1%"
    counts = [p["count"] for p in paired]
    yield Table("paired", "Paired differences", columns, rows, figure, note, counts)


_PAIRED = ("difference", "low", "high", "p_value", "p_holm", "only_first", "only_second",
           "both_right", "neither")  # fmt: skip


def alarms(result: Mapping[str, Any]) -> list[str]:
    """What an evaluation says of drift where its newest batch gives an alarm."""
    models = [m for m in result["models"] if m.get("kind") != "judge"]
    found = [(m["name"], m["report"].get("drift") or {}) for m in models]
    return [f"Drift of {name}. {drift['sentence']}" for name, drift in found if drift.get("alarm")]
