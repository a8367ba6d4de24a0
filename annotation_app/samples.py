"""Answers before and after, as an evaluation's run left them, without reading all for a few.

``responses.jsonl`` is gone through once, for where each line begins and what it is sorted by; a
page then reads its own lines only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from annotation_app import exchange
from annotation_app.models import Round, Run
from rlhf_loop.prompts import PromptKind

SCORES = ("combined", "helpfulness", "safety")
ORDERS = {"gain": "largest gain first", "fall": "largest fall first", "random": "drawn at random"}
Sample = dict[str, Any]


class Place(NamedTuple):
    """A line of the file: where it begins, and what it is chosen and sorted by."""

    start: int
    kind: str
    gains: tuple[float, ...]
    """of each of SCORES, after less before"""


def responses_file(round_: Round) -> Path | None:
    """What the round's evaluation answered; None while there is none."""
    done = round_.runs.filter(kind=Run.Kind.EVALUATE, state=Run.State.SUCCEEDED).order_by("pk")
    run = done.last()
    file = exchange.run_folder(run).path / "responses.jsonl" if run else None
    return file if file is not None and file.is_file() else None


def places(file: Path) -> tuple[Place, ...]:
    """Where each line of the file is."""
    known = file.stat()
    return _places(file, known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=8)  # a finished run's file is not written again; a changed one is read anew
def _places(file: Path, mtime: int, size: int) -> tuple[Place, ...]:
    found, start = [], 0
    with file.open("rb") as lines:
        for line in lines:
            if line.strip():
                found.append(_place(start, json.loads(line)))
            start += len(line)
    return tuple(found)


def _place(start: int, record: Mapping[str, Any]) -> Place:
    return Place(start, kind_of(record), tuple(_gain(record, name) for name in SCORES))


def _gain(record: Mapping[str, Any], score: str) -> float:
    """After less before; 0 where it was not measured."""
    return float(record["after"].get(score, 0.0)) - float(record["before"].get(score, 0.0))


def kind_of(record: Mapping[str, Any]) -> str:
    """What sort of prompt a line answers; older runs said only whether it is a safety prompt."""
    plain = PromptKind.ADVERSARIAL if record.get("is_safety") else PromptKind.HELPFULNESS
    return str(record.get("kind") or plain)


def ordered(found: Sequence[Place], kind: str, order: str, score: str, draw: int) -> list[Place]:
    """Those with this kind of prompt ("" is all) in this order; ``draw`` says which random one."""
    chosen = [place for place in found if not kind or place.kind == kind]
    if order == "random":
        random.Random(draw).shuffle(chosen)
        return chosen
    by, sign = SCORES.index(score), 1 if order == "fall" else -1
    return sorted(chosen, key=lambda place: sign * place.gains[by])


def read(file: Path, some: Sequence[Place]) -> list[Sample]:
    """The samples at these places."""
    with file.open("rb") as lines:
        return [_sample(lines, place) for place in some]


def _sample(lines: Any, place: Place) -> Sample:
    lines.seek(place.start)
    record: Sample = json.loads(lines.readline())
    before, after = record["before"], record["after"]
    scores = [
        (name, before[name], after[name], _gain(record, name))
        for name in (*SCORES, "independent")
        if name in before and name in after
    ]
    return {**record, "kind": kind_of(record), "scores": scores}
