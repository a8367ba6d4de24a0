"""A file of records made in parts, each as a whole or not at all: what a killed run resumes.

On the CPU a part's records are the same to the last bit whatever happened to the run, since what
goes through the models together is always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from reward import ranks
from reward.lines import Record, append_records, whole_records, write_records
from reward.run_folder import RunFolder


def make_parts(
    run: RunFolder,
    path: Path,
    sizes: Sequence[int],
    total: int,
    make: Callable[[int], list[Record]],
    figures: Callable[[Sequence[Record]], Mapping[str, float]],
    before: int = 0,
) -> None:
    """Store the parts that are not stored yet, part i with ``sizes[i]`` records from ``make(i)``.

    Each is one step of ``total`` in the metrics with its ``figures``, also where the run was killed
    between the two; ``before`` is how many steps come before the first. Of several ranks all make
    each part together, and the first stores it.
    """
    done = ranks.told(whole_parts(path, sizes) if ranks.is_first() else 0)
    run.rewind_metrics(before + done)
    stored, ends = whole_records(path), list(accumulate(sizes))
    for number in range(ranks.told(len(run.metrics()) - before), len(sizes)):
        if number < done:
            records = stored[ends[number] - sizes[number] : ends[number]]
        else:
            records = make(number)
            if ranks.is_first():
                run.begin()
                append_records(path, records)
        run.log_metrics(before + number + 1, total, **figures(records))
    ranks.wait()  # until the last is stored


def whole_parts(path: Path, sizes: Sequence[int]) -> int:
    """How many parts of so many records each stand whole in a file; what follows is cut off."""
    records = whole_records(path)
    parts = kept = 0
    for size in sizes:
        if kept + size > len(records):
            break
        parts, kept = parts + 1, kept + size
    if kept < len(records):
        write_records(path, records[:kept])
    return parts
