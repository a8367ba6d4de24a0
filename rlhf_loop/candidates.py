"""K scored answers to each prompt, drawn and stored in parts: what a killed run resumes from.

A part is drawn and scored as a whole or not at all, so that on the CPU its answers and scores are
the same to the last bit whatever happened to the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from reward.lines import append_records, whole_records, write_records
from reward.run_folder import RunFolder
from rlhf_loop.config import Compute
from rlhf_loop.policy import Drawing, row_seed
from rlhf_loop.prompts import Prompt
from rlhf_loop.rollout import RewardModels, sample_and_score

Record = dict[str, Any]


def draw_candidates(
    model: Any,
    tokenizer: Any,
    rewards: RewardModels,
    prompts: Sequence[Prompt],
    samples: int,
    seed: int,
    purpose: str,
    drawing: Drawing,
    compute: Compute,
) -> list[Record]:
    """``samples`` answers to each prompt, the answers to one prompt one after the other.

    Each has its own seed: from the run's ``seed``, the ``purpose``, the prompt's id and its number
    among the prompt's answers.
    """
    asked = [(prompt, number) for prompt in prompts for number in range(samples)]
    seeds = [row_seed(seed, purpose, prompt.id, number) for prompt, number in asked]
    answers, texts, scores = sample_and_score(
        model, tokenizer, rewards, [prompt for prompt, _ in asked], seeds, drawing, compute
    )
    return [
        {
            "temperature": drawing.temperature,
            "prompt_id": prompt.id,
            "sample": number,
            "seed": seeds[i],
            "text": texts[i],
            "finish_reason": "stop" if answers[i].finished else "length",
            "helpfulness": scores.helpfulness[i].item(),
            "safety": scores.safety[i].item(),
            "score": scores.combined[i].item(),
        }
        for i, (prompt, number) in enumerate(asked)
    ]


def draw_parts(
    run: RunFolder,
    path: Path,
    sizes: Sequence[int],
    total: int,
    draw: Callable[[int], list[Record]],
) -> None:
    """Store the parts that are not stored yet, part i with ``sizes[i]`` records from ``draw(i)``.

    Each is one step of ``total`` in the metrics, also where the run was killed between the two.
    """
    done = whole_parts(path, sizes)
    run.rewind_metrics(done)
    stored, ends = whole_records(path), list(accumulate(sizes))
    for number in range(len(run.metrics()), len(sizes)):
        if number < done:
            records = stored[ends[number] - sizes[number] : ends[number]]
        else:
            records = draw(number)
            append_records(path, records)
        run.log_metrics(number + 1, total, **part_figures(records))


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


def is_usable(record: Record) -> bool:
    """Whether an answer may be learnt from: not empty, and not cut at the limit, since that would
    teach an end where there is none."""
    return record["finish_reason"] != "length" and bool(record["text"].strip())


def part_figures(records: Sequence[Record]) -> dict[str, float]:
    """A part's figures for the metrics."""
    best: dict[str, float] = {}
    for record in records:
        best[record["prompt_id"]] = max(record["score"], best.get(record["prompt_id"], -math.inf))
    return {
        "temperature": records[0]["temperature"],
        "objective/scores": mean(record["score"] for record in records),
        "objective/helpfulness": mean(record["helpfulness"] for record in records),
        "objective/safety": mean(record["safety"] for record in records),
        "objective/truncated": mean(record["finish_reason"] == "length" for record in records),
        "rejection/best_scores": mean(best.values()),
    }


def mean(values: Iterable[float]) -> float:
    """The mean, 0 of none."""
    found = list(values)
    return sum(found) / max(len(found), 1)
