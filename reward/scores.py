"""The scores of a set of pairs as a file, JSON lines {id, chosen, rejected}. Standard library only.

``reward.train`` and ``reward.compare`` write it; pages read it beside its pairs file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from reward.measures.accuracy import ScoredPair
from reward.preferences import PreferencePair, RecordReader, read_json_lines

SCORES = "scores.jsonl"


def write_scores(path: Path, scored: Iterable[ScoredPair]) -> None:
    """Write raw scores; readers see the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for pair, chosen, rejected in scored:
            line = {"id": pair.id, "chosen": chosen, "rejected": rejected}
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_scores(path: Path, pairs: Iterable[PreferencePair]) -> list[ScoredPair]:
    """The scored ones of these pairs, in their order.

    Raises MalformedLine, also for an id that stands there twice.
    """
    scores: dict[str, tuple[float, float]] = {}
    for number, record in read_json_lines(path):
        reader = RecordReader(record, path, number)
        name = reader.text("id")
        if name in scores:
            raise reader.refuse("id", name, "each pair once")
        scores[name] = (reader.number("chosen"), reader.number("rejected"))
    return [ScoredPair(pair, *scores[pair.id]) for pair in pairs if pair.id in scores]


def mistakes(scored: Iterable[ScoredPair], most: int) -> list[ScoredPair]:
    """The pairs whose rejected response scores highest above the chosen one, worst first."""
    wrong = [item for item in scored if item.difference < 0]
    return sorted(wrong, key=lambda item: item.difference)[:most]


def refuse_repeated_ids(pairs: Sequence[PreferencePair], path: Path) -> None:
    """Raises ValueError naming an id that two pairs of the file have."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise ValueError(f"{path}: id {pair.id!r} stands there twice, allowed is once")
        seen.add(pair.id)
