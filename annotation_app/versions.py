"""The chat versions of the rounds on the plane of helpfulness and safety, as tables.

Reward models change from round to round, and their scores cannot be compared. So each version is
shown against the model that it was made of, under the reward models of its own round and on its own
test prompts, and nothing is added up over rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from annotation_app import figures
from annotation_app.models import Round
from annotation_app.tables import Column, Table, is_number
from reward.measures.accuracy import wilson_interval

AXES = {"helpfulness": "helpfulness_prompts", "safety": "safety_prompts"}
HONESTLY = (
    "Each version is compared with the model that it was made of, by the reward models of its own "
    "round: they change from round to round, so nothing is added up over versions."
)
SYMBOLS: dict[str, str] = {
    Round.State.RELEASED: "circle",
    Round.State.EVALUATED: "circle-open",
    Round.State.HELD: "x",
    Round.State.ROLLED_BACK: "triangle-down",
}
MARKED = (Round.State.HELD, Round.State.ROLLED_BACK)  # in words beside the point
VERSION = (Column("Version"), Column("State"), Column("Made of"))


class Axis(NamedTuple):
    """What a round's evaluation says along one axis."""

    before: float
    after: float
    won: float
    low: float
    high: float
    prompts: int


def version_tables(rounds: Iterable[Round]) -> list[Table]:
    """Win rates and mean scores of every version that was evaluated, the oldest first."""
    found = [(round_, axes) for round_ in rounds if (axes := _axes(round_.evaluation))]
    return [_won(found), _scored(found)] if found else []


Found = Sequence[tuple[Round, Mapping[str, Axis]]]


def _axes(evaluation: Mapping[str, Any]) -> dict[str, Axis]:
    """Helpfulness on helpfulness prompts and safety on safety prompts, where they were measured."""
    axes = ((name, _axis(evaluation.get(group) or {}, name)) for name, group in AXES.items())
    return {name: axis for name, axis in axes if axis is not None}


def _axis(group: Mapping[str, Any], name: str) -> Axis | None:
    """An interval is of dialogue roots: prompts of one root are no independent ones."""
    found, prompts = group.get(name) or {}, group.get("count") or 0
    before, after, won = (found.get(key) for key in ("before", "after", "win_rate"))
    if not (prompts and is_number(before) and is_number(after) and is_number(won)):
        return None
    return Axis(before, after, won, *wilson_interval(won, group.get("roots") or prompts), prompts)


def _won(found: Found) -> Table:
    rows = [
        (round_.name, str(round_.get_state_display()), round_.policy.name,
         *_cells(axes, ("won", "low", "high", "prompts")))
        for round_, axes in found
    ]  # fmt: skip
    columns = [*VERSION, *(
        Column(f"{name.capitalize()}{what}", kind)
        for name in AXES
        for what, kind in ((" won", "share"), (", low", "share"), (", high", "share"),
                           (" prompts", "count"))
    )]  # fmt: skip
    points = [
        figures.Version(
            _label(round_),
            x=(helpful.won, helpful.low, helpful.high),
            y=(safe.won, safe.low, safe.high),
            symbol=SYMBOLS.get(round_.state, "circle-open"),
        )
        for round_, helpful, safe in _on_both(found)
    ]
    title = "How often each version wins against the one it was made of"
    note = (
        f"{HONESTLY} A win is a higher score for an answer to the same test prompt, of helpfulness "
        "on helpfulness prompts and of safety on safety prompts; 50 % is no change, and equal "
        "scores count half. Low and high: 95 %. Full circle: released; open: not decided; "
        "cross: held back; triangle: rolled back."
    )
    figure = figures.win_rates(points, title) if points else None
    return Table("versions", title, columns, rows, figure, note, _counts(found), "test prompts")


def _scored(found: Found) -> Table:
    rows = [
        (round_.name, str(round_.get_state_display()), round_.policy.name,
         round_.helpfulness.name, round_.safety.name, *_cells(axes, ("before", "after")))
        for round_, axes in found
    ]  # fmt: skip
    columns = [*VERSION, Column("Helpfulness by"), Column("Safety by"), *(
        Column(f"{name.capitalize()} {when}") for name in AXES for when in ("before", "after")
    )]  # fmt: skip
    points = [
        figures.Version(
            _label(round_), x=(helpful.before, helpful.after), y=(safe.before, safe.after)
        )
        for round_, helpful, safe in _on_both(found)
    ]
    title = "Mean scores, from the model before to each version"
    note = (
        "An arrow for each version, in its round's own mean logits: compare how it points and how "
        "long it is; where it stands says something only beside one with the same reward models."
    )
    figure = figures.arrows(points, title) if points else None
    return Table("version-scores", title, columns, rows, figure, note, _counts(found),
                 "test prompts")  # fmt: skip


def _label(round_: Round) -> str:
    state = f", {str(round_.get_state_display()).lower()}" if round_.state in MARKED else ""
    return f"{round_.name}{state}"


def _on_both(found: Found) -> Iterator[tuple[Round, Axis, Axis]]:
    """The rounds that have a place on the plane."""
    for round_, axes in found:
        if len(axes) == len(AXES):
            yield round_, axes["helpfulness"], axes["safety"]


def _cells(axes: Mapping[str, Axis], keys: Sequence[str]) -> list[Any]:
    return [getattr(axes.get(name), key, None) for name in AXES for key in keys]


def _counts(found: Found) -> list[int]:
    return [sum(axis.prompts for axis in axes.values()) for _, axes in found]
